"""Linear layer whose sums stay in float32, as routers of experts need theirs.

With x of ``[T, C]`` and a weight of ``[O, C]``::

    y = x W^T        in float32, whatever the dtype of x and W

Products of two bfloat16 or float16 numbers are exact in float32, so nothing is lost against copies of x and W in
float32: the kernel reads x as it is, once for every 64 outputs, and differs by the order of its sums only. It is made
for few outputs, such as the experts of V-MoE (arXiv:2106.05974).

Shapes: T rows (all leading axes together), C channels, O outputs.
"""
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from gatedvision_kernels._device import on_device_of
from gatedvision_kernels._dispatch import interpreting, use_triton
from gatedvision_kernels._operator import custom_op, launcher
from gatedvision_kernels._recomputed_linear import check_linear, linear
from gatedvision_kernels._rows import as_rows, ceil_div
from gatedvision_kernels._triton import jit, tl
from gatedvision_kernels._two_ways import two_ways

BLOCK_ROWS, MAX_BLOCK_OUT = 64, 64


def wide_linear(x: Tensor, weight: Tensor, *, backend: str = "auto") -> Tensor:
    """Multiply rows by a matrix and sum in float32.

    Args:
        x: ``[..., C]``.
        weight: ``[O, C]`` in the dtype of ``x``.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        ``[..., O]`` in float32, or in float64 for float64 input.

    Raises:
        ValueError: if shapes or dtypes do not fit, or the backend cannot run on these tensors.
    """
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"x must be [..., C], C > 0, got {tuple(x.shape)}")
    check_linear(weight, None, x.shape[-1])
    if x.dtype != weight.dtype:
        raise ValueError(f"x and weight must be of one dtype, got {x.dtype} and {weight.dtype}")
    if use_triton(backend, x, weight):
        return _run(x, weight)
    return wide_linear_reference(x, weight)


def wide_linear_reference(x: Tensor, weight: Tensor) -> Tensor:
    """Define :func:`wide_linear` in plain torch: any device, float64 for float64 input."""
    return linear(x.to(torch.promote_types(x.dtype, torch.float32)), weight, None)


@jit
def _forward_kernel(
    x_ptr,  # [T, C]
    weight_ptr,  # [O, C]
    y_ptr,  # [T, O]
    num_rows,
    num_out,
    x_stride,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    WIDEN: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    outs = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    total = tl.zeros((BLOCK_ROWS, BLOCK_OUT), dtype=tl.float32)
    for start in range(0, WIDTH, BLOCK_WIDTH):
        columns = start + tl.arange(0, BLOCK_WIDTH)
        mask = (rows < num_rows)[:, None] & (columns < WIDTH)[None, :]
        x = tl.load(x_ptr + rows[:, None] * x_stride + columns[None, :], mask=mask, other=0.0)
        mask = (columns < WIDTH)[:, None] & (outs < num_out)[None, :]
        weight = tl.load(weight_ptr + outs[None, :] * WIDTH + columns[:, None], mask=mask, other=0.0)
        if WIDEN:
            x, weight = x.to(tl.float32), weight.to(tl.float32)
        total = tl.dot(x, weight, total, input_precision="ieee")
    mask = (rows < num_rows)[:, None] & (outs < num_out)[None, :]
    tl.store(y_ptr + rows[:, None] * num_out + outs[None, :], total, mask=mask)


def _forward(x: Tensor, weight: Tensor) -> Tensor:
    rows, weight = as_rows(x), weight.contiguous()
    num_out, width = weight.shape
    y = x.new_empty((*x.shape[:-1], num_out), dtype=torch.float32)
    # Tensor cores take no fewer than 16 columns.
    block_out = 16 if num_out <= 16 else 32 if num_out <= 32 else MAX_BLOCK_OUT
    with on_device_of(x):
        launcher(_forward_kernel)[(ceil_div(len(rows), BLOCK_ROWS), ceil_div(num_out, block_out))](
            rows,
            weight,
            y,
            len(rows),
            num_out,
            rows.stride(0),
            WIDTH=width,
            BLOCK_ROWS=BLOCK_ROWS,
            BLOCK_OUT=block_out,
            BLOCK_WIDTH=32 if x.dtype == torch.float32 else 128,
            # The interpreter gets products of bfloat16 wrong.
            WIDEN=interpreting(),
            num_warps=4,
        )
    return y


def _backward(grad_y: Tensor, x: Tensor, weight: Tensor, needs: tuple[bool, bool]) -> tuple[Tensor | None, ...]:
    """Leave both products to torch, in float32."""
    grad_x = (grad_y @ weight.to(grad_y.dtype)).to(x.dtype) if needs[0] else None
    if not needs[1]:
        return grad_x, None
    grad_rows, rows = (t.reshape(-1, t.shape[-1]) for t in (grad_y, x))
    return grad_x, (grad_rows.T @ rows.to(grad_y.dtype)).to(weight.dtype)


_wide_linear = custom_op("wide_linear", _forward, schema="(Tensor x, Tensor weight) -> Tensor")


@_wide_linear.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=torch.float32)


# Two operations for a multiply-add; the backward pass is of torch's own products.
@register_flop_formula(torch.ops.gatedvision.wide_linear)
def _(x: torch.Size, weight: torch.Size, *arguments: Any, **_: Any) -> int:
    return 2 * x.numel() * weight[0]


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(backward: Callable[..., Any], ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    return backward(grad_y, *ctx.saved_tensors, ctx.needs_input_grad)


_run = two_ways(_wide_linear, _forward, _backward, _backward, _save, _differentiate)
