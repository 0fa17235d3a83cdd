"""Rows of tokens and rows of slots: how tokens reach the fixed buffers of experts, and how they come back.

Every token has K choices, each of which got a slot or did not; every slot holds one choice or is empty. Both
directions are known, so that each output row gathers what belongs to it and no two programs write to one row.

Shapes: T tokens, K choices of a token, Q slots, C channels.
"""
# pyright: reportArgumentType=false

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from gatedvision_kernels._device import on_device_of
from gatedvision_kernels._dispatch import INDEX_DTYPES
from gatedvision_kernels._operator import launcher
from gatedvision_kernels._rows import as_rows, block_of, ceil_div
from gatedvision_kernels._triton import jit, tl


def check_slots(choice_of_slot: Tensor, slot_of_choice: Tensor, device: torch.device) -> None:
    """Check the two maps between choices and slots.

    Raises:
        ValueError: if they have no shapes ``[Q]`` and ``[..., K]``, are no integers, or lie on another device.
    """
    if choice_of_slot.ndim != 1 or slot_of_choice.ndim == 0 or slot_of_choice.shape[-1] == 0:
        raise ValueError(
            f"choice_of_slot must be [Q] and slot_of_choice [..., K], K > 0; got {tuple(choice_of_slot.shape)} and "
            f"{tuple(slot_of_choice.shape)}"
        )
    dtypes = (choice_of_slot.dtype, slot_of_choice.dtype)
    if dtypes[0] not in INDEX_DTYPES or dtypes[1] not in INDEX_DTYPES:
        raise ValueError(f"choice_of_slot and slot_of_choice must be int32 or int64, got {dtypes[0]} and {dtypes[1]}")
    if choice_of_slot.device != device or slot_of_choice.device != device:
        raise ValueError(
            f"tokens lie on {device}, the maps of their slots on {choice_of_slot.device} and {slot_of_choice.device}"
        )


def rows_by_slot(
    x: Tensor,
    choice_of_slot: Tensor,
    num_choices: int,
    gates: Optional[Tensor] = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Give every slot its token's row, times the gate of its choice; empty slots get zeros.

    Args:
        x: ``[T, C]``.
        choice_of_slot: ``[Q]``, the slot's choice, token * K + rank; negative where it is empty.
        num_choices: K.
        gates: ``[T, K]`` or nothing.
        dtype: of the result, by default that of ``x``.
    """
    x = as_rows(x)
    num_slots, width = len(choice_of_slot), x.shape[1]
    y = x.new_empty((num_slots, width), dtype=dtype)
    tile = block_of(width)
    grid = (ceil_div(num_slots, tile["BLOCK_ROWS"]), ceil_div(width, tile["BLOCK_WIDTH"]))
    gates = gates if gates is None else gates.contiguous()
    with on_device_of(x):
        launcher(_by_slot_kernel)[grid](
            x, choice_of_slot.contiguous(), gates, y, num_slots, num_choices, x.stride(0), WIDTH=width, **tile
        )
    return y


def rows_by_token(rows: Tensor, slot_of_choice: Tensor, gates: Optional[Tensor] = None) -> Tensor:
    """Give every token the sum of its slots' rows, each times its gate.

    Args:
        rows: ``[Q, C]``.
        slot_of_choice: ``[T, K]``, negative for choices without a slot.
        gates: ``[T, K]`` or nothing.
    """
    rows = as_rows(rows)
    num_tokens, num_choices = slot_of_choice.shape
    width = rows.shape[1]
    y = rows.new_empty((num_tokens, width))
    tile = block_of(width)
    grid = (ceil_div(num_tokens, tile["BLOCK_ROWS"]), ceil_div(width, tile["BLOCK_WIDTH"]))
    gates = gates if gates is None else gates.contiguous()
    with on_device_of(rows):
        launcher(_by_token_kernel)[grid](
            rows, slot_of_choice.contiguous(), gates, y, num_tokens, num_choices, rows.stride(0), WIDTH=width, **tile
        )
    return y


def products_by_choice(x: Tensor, rows: Tensor, slot_of_choice: Tensor, dtype: torch.dtype) -> Tensor:
    """Multiply every token's row by that of each of its slots and sum over channels: ``[T, K]`` in ``dtype``.

    Args:
        x: ``[T, C]``.
        rows: ``[Q, C]``.
        slot_of_choice: ``[T, K]``; choices without a slot get 0.
        dtype: of the result.
    """
    x, rows = as_rows(x), as_rows(rows)
    num_tokens, num_choices = slot_of_choice.shape
    width = x.shape[1]
    y = x.new_empty((num_tokens, num_choices), dtype=dtype)
    tile = block_of(width)
    with on_device_of(x):
        launcher(_by_choice_kernel)[(ceil_div(num_tokens * num_choices, tile["BLOCK_ROWS"]),)](
            x,
            rows,
            slot_of_choice.contiguous(),
            y,
            num_tokens * num_choices,
            num_choices,
            x.stride(0),
            rows.stride(0),
            WIDTH=width,
            **tile,
        )
    return y


@jit
def _by_slot_kernel(
    x_ptr,  # [T, C]
    choice_ptr,  # [Q]
    gates_ptr,  # [T, K], or None
    y_ptr,  # [Q, C]
    num_slots,
    num_choices,
    x_stride,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    slots = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    columns = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)[None, :]
    choices = tl.load(choice_ptr + slots, mask=slots < num_slots, other=-1).to(tl.int64)
    taken = choices >= 0
    # Division rounds toward zero: an empty slot would point to the first token.
    tokens = tl.where(taken, choices, 0) // num_choices
    mask = taken[:, None] & (columns < WIDTH)
    rows = tl.load(x_ptr + tokens[:, None] * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
    if gates_ptr is not None:
        rows *= tl.load(gates_ptr + choices, mask=taken, other=0.0).to(tl.float32)[:, None]
    inside = (slots < num_slots)[:, None] & (columns < WIDTH)
    tl.store(y_ptr + slots[:, None] * WIDTH + columns, rows.to(y_ptr.dtype.element_ty), mask=inside)


@jit
def _by_token_kernel(
    rows_ptr,  # [Q, C]
    slot_ptr,  # [T, K]
    gates_ptr,  # [T, K], or None
    y_ptr,  # [T, C]
    num_tokens,
    num_choices,
    rows_stride,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    tokens = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    columns = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)[None, :]
    inside = tokens < num_tokens
    total = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), dtype=tl.float32)
    for rank in range(num_choices):
        choices = tokens * num_choices + rank
        slots = tl.load(slot_ptr + choices, mask=inside, other=-1).to(tl.int64)
        taken = slots >= 0
        mask = taken[:, None] & (columns < WIDTH)
        rows = tl.load(rows_ptr + slots[:, None] * rows_stride + columns, mask=mask, other=0.0).to(tl.float32)
        if gates_ptr is not None:
            rows *= tl.load(gates_ptr + choices, mask=taken, other=0.0).to(tl.float32)[:, None]
        total += rows
    mask = inside[:, None] & (columns < WIDTH)
    tl.store(y_ptr + tokens[:, None] * WIDTH + columns, total.to(y_ptr.dtype.element_ty), mask=mask)


@jit
def _by_choice_kernel(
    x_ptr,  # [T, C]
    rows_ptr,  # [Q, C]
    slot_ptr,  # [T, K]
    y_ptr,  # [T, K]
    total_choices,  # T * K
    num_choices,
    x_stride,
    rows_stride,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    choices = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    inside = choices < total_choices
    slots = tl.load(slot_ptr + choices, mask=inside, other=-1).to(tl.int64)
    tokens = choices // num_choices
    total = tl.zeros((BLOCK_ROWS,), dtype=tl.float32)
    for start in range(0, WIDTH, BLOCK_WIDTH):
        columns = start + tl.arange(0, BLOCK_WIDTH)[None, :]
        mask = (slots >= 0)[:, None] & (columns < WIDTH)
        x = tl.load(x_ptr + tokens[:, None] * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
        rows = tl.load(rows_ptr + slots[:, None] * rows_stride + columns, mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(x * rows, axis=1)
    tl.store(y_ptr + choices, total.to(y_ptr.dtype.element_ty), mask=inside)
