"""SwiGLU: the gated activation of ViG's multilayer perceptrons, on a packed projection.

With the two halves g, u of the last axis (N. Shazeer, arXiv:2002.05202)::

    y = silu(g) * u = g * sigmoid(g) * u

Shapes: I width of a half, R rows (all leading axes together).
"""
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gatedvision_kernels._device import on_device_of
from gatedvision_kernels._dispatch import use_triton
from gatedvision_kernels._operator import custom_op, launcher
from gatedvision_kernels._rows import as_rows, ceil_div, tile_of
from gatedvision_kernels._triton import jit, tl
from gatedvision_kernels._tuning import setting
from gatedvision_kernels._two_ways import two_ways

# Widths such as 704 are no power of two: narrow tiles leave fewer lanes idle at their end.
MAX_BLOCK_WIDTH = 256


def swiglu(x: Tensor, *, backend: str = "auto") -> Tensor:
    """Multiply the second half of the channels by the SiLU of the first.

    Args:
        x: ``[..., 2I]``, gate before value.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        ``[..., I]`` in the dtype of ``x``, computed in float32 or wider.

    Raises:
        ValueError: if the last axis is odd or empty, the dtype does not fit, or the backend cannot
            run on this tensor.
    """
    if x.ndim == 0 or x.shape[-1] == 0 or x.shape[-1] % 2 != 0:
        raise ValueError(f"the last axis of x must be even and not empty, got x {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"x must be floating point, got {x.dtype}")
    if use_triton(backend, x):
        return _run(x)
    return swiglu_reference(x)


def swiglu_reference(x: Tensor) -> Tensor:
    """Define :func:`swiglu` in plain torch: any device, float64 for float64 input."""
    gate, value = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, dim=-1)
    return (F.silu(gate) * value).to(x.dtype)


@jit
def _forward_kernel(
    x_ptr,  # [R, 2I]
    y_ptr,  # [R, I]
    num_rows,
    x_stride,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    columns = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)[None, :]
    mask = (rows < num_rows) & (columns < WIDTH)
    gate = tl.load(x_ptr + rows * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
    value = tl.load(x_ptr + rows * x_stride + WIDTH + columns, mask=mask, other=0.0).to(tl.float32)
    y = gate * tl.sigmoid(gate) * value
    tl.store(y_ptr + rows * WIDTH + columns, y.to(y_ptr.dtype.element_ty), mask=mask)


@jit
def _backward_kernel(
    x_ptr,  # [R, 2I]
    grad_y_ptr,  # [R, I]
    grad_x_ptr,  # [R, 2I]
    num_rows,
    x_stride,
    grad_y_stride,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    columns = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)[None, :]
    mask = (rows < num_rows) & (columns < WIDTH)
    gate = tl.load(x_ptr + rows * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
    value = tl.load(x_ptr + rows * x_stride + WIDTH + columns, mask=mask, other=0.0).to(tl.float32)
    grad_y = tl.load(grad_y_ptr + rows * grad_y_stride + columns, mask=mask, other=0.0).to(tl.float32)
    share = tl.sigmoid(gate)
    grad_gate = grad_y * value * share * (1 + gate * (1 - share))
    grad_value = grad_y * gate * share
    grad_x = grad_x_ptr + rows * (2 * WIDTH) + columns
    tl.store(grad_x, grad_gate.to(grad_x_ptr.dtype.element_ty), mask=mask)
    tl.store(grad_x + WIDTH, grad_value.to(grad_x_ptr.dtype.element_ty), mask=mask)


def _launch_settings(num_rows: int, width: int) -> tuple[tuple[int, int], dict[str, int]]:
    tile = tile_of(min(width, MAX_BLOCK_WIDTH), setting("row_elements"))
    return (ceil_div(num_rows, tile["BLOCK_ROWS"]), ceil_div(width, tile["BLOCK_WIDTH"])), tile


def _forward(x: Tensor) -> Tensor:
    width = x.shape[-1] // 2
    y = x.new_empty((*x.shape[:-1], width))
    x = as_rows(x)
    grid, tile = _launch_settings(len(x), width)
    with on_device_of(x):
        launcher(_forward_kernel)[grid](x, y, len(x), x.stride(0), WIDTH=width, **tile)
    return y


def _backward(grad_y: Tensor, x: Tensor) -> Tensor:
    grad_x = x.new_empty(x.shape)
    x, grad_y = as_rows(x), as_rows(grad_y)
    width = grad_y.shape[1]
    grid, tile = _launch_settings(len(x), width)
    with on_device_of(x):
        launcher(_backward_kernel)[grid](x, grad_y, grad_x, len(x), x.stride(0), grad_y.stride(0), WIDTH=width, **tile)
    return grad_x


_swiglu = custom_op("swiglu", _forward, schema="(Tensor x) -> Tensor")
_swiglu_backward = custom_op("swiglu_backward", _backward, schema="(Tensor grad_y, Tensor x) -> Tensor")


@_swiglu.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2))


@_swiglu_backward.register_fake
def _(grad_y: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _save(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(backward: Callable[..., Tensor], ctx: Any, grad_y: Tensor) -> Tensor:
    return backward(grad_y, *ctx.saved_tensors)


_run = two_ways(_swiglu, _forward, _swiglu_backward, _backward, _save, _differentiate)
