"""Gates of a mixture of experts: the largest shares of a softmax over all experts.

With p = softmax(logits) of a token::

    experts[k] = the expert of the k-th largest p, ties to the lower index
    gates[k]   = p[experts[k]]

The gates are not scaled up to a sum of 1, so that gradients reach the logits of all experts through the softmax (V-MoE,
arXiv:2106.05974, section 2).

Kernels compute in float32. Where two shares differ by less than its rounding they may take either expert first, as the
reference may on another device; equal logits have equal shares everywhere, and float64 is the reference's.

Shapes: T tokens (all leading axes together), E experts, K choices of a token.
"""
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gatedvision_kernels._device import on_device_of
from gatedvision_kernels._dispatch import use_triton
from gatedvision_kernels._operator import custom_op, launcher
from gatedvision_kernels._rows import as_rows, ceil_div, tile_of
from gatedvision_kernels._triton import jit, tl
from gatedvision_kernels._two_ways import two_ways

# Rows of a few experts are short: with more of them in a program, most multiprocessors would have none.
TILE_ELEMENTS = 1024


def top_k_gates(logits: Tensor, num_selected: int, *, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """Choose the experts of every token, and weigh them.

    Args:
        logits: ``[..., E]``.
        num_selected: K, 1 to E.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        Gates ``[..., K]``, largest first, in float32, or in float64 for float64 logits; and int64 experts ``[..., K]``,
        all different.

    Raises:
        ValueError: if shapes or dtypes do not fit, or the backend cannot run on these tensors.
    """
    if logits.ndim == 0 or not logits.is_floating_point():
        raise ValueError(f"logits must be floating point [..., E], got {logits.dtype} {tuple(logits.shape)}")
    if not 1 <= num_selected <= logits.shape[-1]:
        raise ValueError(f"num_selected must be 1 to {logits.shape[-1]}, the experts, got {num_selected}")
    if use_triton(backend, logits):
        return _run(logits, num_selected)
    return top_k_gates_reference(logits, num_selected)


def top_k_gates_reference(logits: Tensor, num_selected: int) -> tuple[Tensor, Tensor]:
    """Define :func:`top_k_gates` in plain torch: any device, float64 for float64 input."""
    shares = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)
    experts = choose_experts(shares, num_selected)
    return shares.gather(-1, experts), experts


def choose_experts(gates: Tensor, num_selected: int) -> Tensor:
    """Return the experts with the largest gates, ``[..., K]`` of ``[..., E]``, largest first, ties to the lower index.

    torch.topk promises nothing about ties; the few choices there are cost less one by one than a stable sort.
    """
    left = gates.detach()
    chosen = [left.argmax(-1, keepdim=True)]
    while len(chosen) < num_selected:
        left = left.scatter(-1, chosen[-1], -1.0)
        chosen.append(left.argmax(-1, keepdim=True))
    return torch.cat(chosen, -1)


@jit
def _softmax(logits_ptr, rows, columns, inside, logits_stride, WIDTH: tl.constexpr):
    """Return the shares ``[BLOCK_ROWS, BLOCK_WIDTH]`` of rows, 0 behind the last expert."""
    logits = tl.load(logits_ptr + rows * logits_stride + columns, mask=inside, other=0.0).to(tl.float32)
    logits = tl.where(columns < WIDTH, logits, float("-inf"))
    shares = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    return shares / tl.sum(shares, axis=1)[:, None]


@jit
def _forward_kernel(
    logits_ptr,  # [T, E]
    gates_ptr,  # [T, K]
    experts_ptr,  # [T, K]
    num_rows,
    num_selected,
    logits_stride,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    columns = tl.arange(0, BLOCK_WIDTH)[None, :]
    inside = (rows < num_rows)[:, None] & (columns < WIDTH)
    shares = _softmax(logits_ptr, rows[:, None], columns, inside, logits_stride, WIDTH)
    # As in torch, what is no number is the largest. Only experts are chosen, whatever their logits.
    left = tl.where(columns < WIDTH, tl.where(shares == shares, shares, 2.0), -2.0)
    for rank in range(num_selected):
        chosen = tl.argmax(left, axis=1, tie_break_left=True)
        picked = columns == chosen[:, None]
        gates = tl.sum(tl.where(picked, shares, 0.0), axis=1)
        choices = rows * num_selected + rank
        tl.store(gates_ptr + choices, gates, mask=rows < num_rows)
        tl.store(experts_ptr + choices, chosen.to(tl.int64), mask=rows < num_rows)
        left = tl.where(picked, -1.0, left)


@jit
def _backward_kernel(
    grad_gates_ptr,  # [T, K]
    logits_ptr,  # [T, E]
    experts_ptr,  # [T, K]
    grad_logits_ptr,  # [T, E]
    num_rows,
    num_selected,
    grad_stride,
    logits_stride,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    columns = tl.arange(0, BLOCK_WIDTH)[None, :]
    inside = (rows < num_rows)[:, None] & (columns < WIDTH)
    shares = _softmax(logits_ptr, rows[:, None], columns, inside, logits_stride, WIDTH)
    grad_shares = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), dtype=tl.float32)
    for rank in range(num_selected):
        chosen = tl.load(experts_ptr + rows * num_selected + rank, mask=rows < num_rows, other=-1)
        grad = tl.load(grad_gates_ptr + rows * grad_stride + rank, mask=rows < num_rows, other=0.0).to(tl.float32)
        grad_shares = tl.where(columns == chosen[:, None], grad[:, None], grad_shares)
    grad_logits = shares * (grad_shares - tl.sum(grad_shares * shares, axis=1)[:, None])
    pointers = grad_logits_ptr + rows[:, None] * WIDTH + columns
    tl.store(pointers, grad_logits.to(grad_logits_ptr.dtype.element_ty), mask=inside)


def _forward(logits: Tensor, num_selected: int) -> tuple[Tensor, Tensor]:
    rows = as_rows(logits)
    num_rows, width = rows.shape
    gates = logits.new_empty((*logits.shape[:-1], num_selected), dtype=torch.float32)
    experts = torch.empty_like(gates, dtype=torch.int64)
    tile = tile_of(width, TILE_ELEMENTS)
    with on_device_of(rows):
        launcher(_forward_kernel)[(ceil_div(num_rows, tile["BLOCK_ROWS"]),)](
            rows, gates, experts, num_rows, num_selected, rows.stride(0), WIDTH=width, **tile
        )
    return gates, experts


def _backward(grad_gates: Tensor, logits: Tensor, experts: Tensor) -> Tensor:
    grad_rows, rows = as_rows(grad_gates), as_rows(logits)
    num_rows, width = rows.shape
    grad_logits = logits.new_empty(logits.shape)
    tile = tile_of(width, TILE_ELEMENTS)
    with on_device_of(rows):
        launcher(_backward_kernel)[(ceil_div(num_rows, tile["BLOCK_ROWS"]),)](
            grad_rows,
            rows,
            experts,
            grad_logits,
            num_rows,
            experts.shape[-1],
            grad_rows.stride(0),
            rows.stride(0),
            WIDTH=width,
            **tile,
        )
    return grad_logits


_top_k_gates = custom_op("top_k_gates", _forward, schema="(Tensor logits, int num_selected) -> (Tensor, Tensor)")
_top_k_gates_backward = custom_op(
    "top_k_gates_backward", _backward, schema="(Tensor grad_gates, Tensor logits, Tensor experts) -> Tensor"
)


@_top_k_gates.register_fake
def _(logits: Tensor, num_selected: int) -> tuple[Tensor, Tensor]:
    gates = logits.new_empty((*logits.shape[:-1], num_selected), dtype=torch.float32)
    return gates, torch.empty_like(gates, dtype=torch.int64)


@_top_k_gates_backward.register_fake
def _(grad_gates: Tensor, logits: Tensor, experts: Tensor) -> Tensor:
    return logits.new_empty(logits.shape)


def _save(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], output[1])
    # The experts have no gradient, and none is made up for them.
    ctx.set_materialize_grads(False)


def _differentiate(
    backward: Callable[..., Tensor], ctx: Any, grad_gates: Tensor | None, _: None
) -> tuple[Tensor | None, None]:
    return None if grad_gates is None else backward(grad_gates, *ctx.saved_tensors), None


_run = two_ways(_top_k_gates, _forward, _top_k_gates_backward, _backward, _save, _differentiate)
