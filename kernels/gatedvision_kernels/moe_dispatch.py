"""Dispatch of a mixture of experts: tokens gathered into the fixed buffers of the experts.

With slot q holding choice c of token t = c // K, or nothing::

    buffers[q] = x[t]      or 0 where the slot is empty

A token without a slot is dropped; one with several slots is in several buffers (V-MoE, arXiv:2106.05974, section 2).

Shapes: T tokens (all leading axes together), K choices of a token, Q slots of all experts, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gatedvision_kernels._dispatch import use_triton
from gatedvision_kernels._operator import custom_op
from gatedvision_kernels._slot_rows import check_slots, rows_by_slot, rows_by_token
from gatedvision_kernels._two_ways import two_ways


def moe_dispatch(x: Tensor, choice_of_slot: Tensor, slot_of_choice: Tensor, *, backend: str = "auto") -> Tensor:
    """Gather tokens by slot.

    Args:
        x: ``[..., C]``.
        choice_of_slot: ``[Q]`` integers: the choice in each slot, token * K + rank, negative for empty slots.
        slot_of_choice: ``[..., K]`` integers, leading axes of ``x``: the slot of each choice, negative for dropped
            ones; the inverse of ``choice_of_slot``, by which the kernels sum gradients.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        ``[Q, C]`` in the dtype of ``x``.

    Raises:
        ValueError: if shapes or dtypes do not fit, or the backend cannot run on these tensors.
    """
    check_slots(choice_of_slot, slot_of_choice, x.device)
    if x.ndim == 0 or x.shape[-1] == 0 or x.shape[:-1] != slot_of_choice.shape[:-1]:
        raise ValueError(
            f"x must be [..., C], C > 0, and slot_of_choice [..., K] with the same leading axes; got "
            f"{tuple(x.shape)} and {tuple(slot_of_choice.shape)}"
        )
    if not x.is_floating_point():
        raise ValueError(f"x must be floating point, got {x.dtype}")
    if use_triton(backend, x):
        return _run(x, choice_of_slot, slot_of_choice)
    return moe_dispatch_reference(x, choice_of_slot, slot_of_choice)


def moe_dispatch_reference(x: Tensor, choice_of_slot: Tensor, slot_of_choice: Tensor) -> Tensor:
    """Define :func:`moe_dispatch` in plain torch, on any device."""
    rows = x.reshape(-1, x.shape[-1])
    # Empty slots take a row of zeros behind the last token.
    rows = torch.cat([rows, rows.new_zeros((1, rows.shape[1]))])
    tokens = torch.div(choice_of_slot, slot_of_choice.shape[-1], rounding_mode="floor")
    return rows.index_select(0, torch.where(choice_of_slot < 0, rows.shape[0] - 1, tokens))


def _forward(x: Tensor, choice_of_slot: Tensor, slot_of_choice: Tensor) -> Tensor:
    return rows_by_slot(x.reshape(-1, x.shape[-1]), choice_of_slot, slot_of_choice.shape[-1])


def _backward(grad_buffers: Tensor, slot_of_choice: Tensor) -> Tensor:
    grad_x = rows_by_token(grad_buffers, slot_of_choice.reshape(-1, slot_of_choice.shape[-1]))
    return grad_x.view(*slot_of_choice.shape[:-1], grad_buffers.shape[-1])


_moe_dispatch = custom_op(
    "moe_dispatch", _forward, schema="(Tensor x, Tensor choice_of_slot, Tensor slot_of_choice) -> Tensor"
)
_moe_dispatch_backward = custom_op(
    "moe_dispatch_backward", _backward, schema="(Tensor grad_buffers, Tensor slot_of_choice) -> Tensor"
)


@_moe_dispatch.register_fake
def _(x: Tensor, choice_of_slot: Tensor, slot_of_choice: Tensor) -> Tensor:
    return x.new_empty((choice_of_slot.shape[0], x.shape[-1]))


@_moe_dispatch_backward.register_fake
def _(grad_buffers: Tensor, slot_of_choice: Tensor) -> Tensor:
    return grad_buffers.new_empty((*slot_of_choice.shape[:-1], grad_buffers.shape[-1]))


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[2])


def _differentiate(backward: Callable[..., Tensor], ctx: Any, grad_buffers: Tensor) -> tuple[Tensor, None, None]:
    return backward(grad_buffers, *ctx.saved_tensors), None, None


_run = two_ways(_moe_dispatch, _forward, _moe_dispatch_backward, _backward, _save, _differentiate)
