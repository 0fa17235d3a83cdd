"""Bias and GELU in one pass: the middle of HorNet's perceptrons, alone or with the linear layer after it.

With the cumulative distribution Phi of the normal distribution, exactly (D. Hendrycks and K. Gimpel,
arXiv:1606.08415)::

    y = u Phi(u),  u = x + bias

    out = y W^T + a

The bias is that of the linear layer before it, so that its gradient, a sum over all rows, is found on the way.
Shapes: D width of a row, R rows (all leading axes together), P programs that share the rows, O outputs of the linear
layer.
"""
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from gatedvision_kernels._device import on_device_of
from gatedvision_kernels._dispatch import use_triton
from gatedvision_kernels._gelu import normal_distribution
from gatedvision_kernels._operator import custom_op, launcher
from gatedvision_kernels._recomputed_linear import check_linear, linear, recomputed_linear
from gatedvision_kernels._rows import as_rows, block_of, ceil_div, num_programs
from gatedvision_kernels._triton import jit, tl
from gatedvision_kernels._two_ways import two_ways


def bias_gelu(x: Tensor, bias: Tensor, *, backend: str = "auto") -> Tensor:
    """Add a bias to each channel and apply GELU.

    Args:
        x: ``[..., D]``.
        bias: ``[D]``, in any floating dtype.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        ``[..., D]`` in the dtype of ``x``, computed in float32 or wider.

    Raises:
        ValueError: if shapes or dtypes do not fit, or the backend cannot run on these tensors.
    """
    _check(x, bias)
    if use_triton(backend, x, bias):
        return _run(x, bias)
    return bias_gelu_reference(x, bias)


def bias_gelu_linear(
    x: Tensor,
    x_bias: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    *,
    backend: str = "auto",
) -> Tensor:
    """Apply a linear layer to the GELU; the kernels compute the GELU again rather than keep it.

    Args:
        x: ``[..., D]``.
        x_bias: ``[D]``, added to ``x``, in any floating dtype.
        weight: ``[O, D]``, in any floating dtype.
        bias: ``[O]``, in any floating dtype, or nothing.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        ``[..., O]`` in the dtype of ``x``, to which the GELU is rounded and weight and bias are cast.

    Raises:
        ValueError: if shapes or dtypes do not fit, or the backend cannot run on these tensors.
    """
    _check(x, x_bias)
    check_linear(weight, bias, x.shape[-1])
    parameters = (weight,) if bias is None else (weight, bias)
    if use_triton(backend, x, x_bias, *parameters):
        return _run_linear(weight, bias, x, x_bias)
    return bias_gelu_linear_reference(x, x_bias, weight, bias)


def bias_gelu_reference(x: Tensor, bias: Tensor) -> Tensor:
    """Define :func:`bias_gelu` in plain torch: any device, float64 for float64 input."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return F.gelu(x.to(dtype) + bias.to(dtype)).to(x.dtype)


def bias_gelu_linear_reference(x: Tensor, x_bias: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """Define :func:`bias_gelu_linear` in plain torch: any device, float64 for float64 input."""
    return linear(bias_gelu_reference(x, x_bias), weight, bias)


def _check(x: Tensor, bias: Tensor) -> None:
    if x.ndim == 0 or x.shape[-1] == 0 or not x.is_floating_point():
        raise ValueError(f"x must be floating point [..., D] with D > 0, got {x.dtype} {tuple(x.shape)}")
    if bias.shape != x.shape[-1:] or not bias.is_floating_point():
        raise ValueError(
            f"bias must be floating point with one element per channel of x {tuple(x.shape)}, "
            f"got {bias.dtype} {tuple(bias.shape)}"
        )


@jit
def _forward_kernel(
    x_ptr,  # [R, D]
    bias_ptr,  # [D]
    y_ptr,  # [R, D]
    num_rows,
    x_stride,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    columns = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)[None, :]
    mask = (rows < num_rows) & (columns < WIDTH)
    x = tl.load(x_ptr + rows * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
    x += tl.load(bias_ptr + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    share, _ = normal_distribution(x)
    tl.store(y_ptr + rows * WIDTH + columns, (x * share).to(y_ptr.dtype.element_ty), mask=mask)


@jit
def _backward_kernel(
    x_ptr,  # [R, D]
    bias_ptr,  # [D]
    grad_y_ptr,  # [R, D]
    y_ptr,  # [R, D], the output once more
    grad_x_ptr,  # [R, D]
    sums_ptr,  # [P, D] float32, of the gradient of x
    num_rows,
    x_stride,
    grad_y_stride,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    columns = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)[None, :]
    bias = tl.load(bias_ptr + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    # Summed over rows only once, at the end: inside the loop that would cost a reduction per block.
    sums = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(num_rows, BLOCK_ROWS), tl.num_programs(0)):
        rows = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS).to(tl.int64)[:, None]
        mask = (rows < num_rows) & (columns < WIDTH)
        x = tl.load(x_ptr + rows * x_stride + columns, mask=mask, other=0.0).to(tl.float32) + bias
        grad_y = tl.load(grad_y_ptr + rows * grad_y_stride + columns, mask=mask, other=0.0).to(tl.float32)
        share, density = normal_distribution(x)
        tl.store(y_ptr + rows * WIDTH + columns, (x * share).to(y_ptr.dtype.element_ty), mask=mask)
        grad_x = grad_y * (share + x * density)
        tl.store(grad_x_ptr + rows * WIDTH + columns, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)
        sums += grad_x
    sums_ptr += tl.program_id(0) * WIDTH + columns
    tl.store(sums_ptr, tl.sum(sums, axis=0)[None, :], mask=columns < WIDTH)


def _forward(x: Tensor, bias: Tensor) -> Tensor:
    y = x.new_empty(x.shape)
    x = as_rows(x)
    num_rows, width = x.shape
    tile = block_of(width)
    grid = (ceil_div(num_rows, tile["BLOCK_ROWS"]), ceil_div(width, tile["BLOCK_WIDTH"]))
    with on_device_of(x):
        launcher(_forward_kernel)[grid](x, bias.contiguous(), y, num_rows, x.stride(0), WIDTH=width, **tile)
    return y


def _backward(grad_y: Tensor, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ``x`` and, in float32, ``bias``, and the output once more."""
    grad_x, y = x.new_empty(x.shape), x.new_empty(x.shape)
    x, grad_y = as_rows(x), as_rows(grad_y)
    num_rows, width = x.shape
    tile = block_of(width)
    programs = num_programs(x.device, ceil_div(num_rows, tile["BLOCK_ROWS"]))
    sums = x.new_empty((programs, width), dtype=torch.float32)
    with on_device_of(x):
        launcher(_backward_kernel)[(programs, ceil_div(width, tile["BLOCK_WIDTH"]))](
            x, bias.contiguous(), grad_y, y, grad_x, sums, num_rows, x.stride(0), grad_y.stride(0), WIDTH=width, **tile
        )
    return grad_x, sums.sum(0), y


_bias_gelu = custom_op("bias_gelu", _forward, schema="(Tensor x, Tensor bias) -> Tensor")
_bias_gelu_backward = custom_op(
    "bias_gelu_backward",
    _backward,
    schema="(Tensor grad_y, Tensor x, Tensor bias) -> (Tensor, Tensor, Tensor)",
)


@_bias_gelu.register_fake
def _(x: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@_bias_gelu_backward.register_fake
def _(grad_y: Tensor, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), bias.new_empty(bias.shape, dtype=torch.float32), x.new_empty(x.shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(backward: Callable, ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor]:
    x, bias = ctx.saved_tensors
    grad_x, grad_bias, _ = backward(grad_y, x, bias)
    return grad_x, grad_bias.to(bias.dtype)


_run = two_ways(_bias_gelu, _forward, _bias_gelu_backward, _backward, _save, _differentiate)
_run_linear = recomputed_linear("bias_gelu_linear", "Tensor x, Tensor x_bias", _forward, _bias_gelu_backward, _backward)
