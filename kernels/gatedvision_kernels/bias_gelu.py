"""Bias and GELU in one pass: the middle of perceptrons (HorNet's, V-MoE's), alone or with the linear layer after it.

With the cumulative distribution Phi of the normal distribution, exactly or as the hyperbolic tangent has it (D.
Hendrycks and K. Gimpel, arXiv:1606.08415)::

    y = u Phi(u),  u = x + bias
    Phi(u) = (1 + erf(u / sqrt(2))) / 2  or  (1 + tanh(sqrt(2 / pi) (u + 0.044715 u^3))) / 2

    out = y W^T + a

The bias is that of the linear layer before it, so that its gradient, a sum over all rows, is found on the way.
Shapes: D width of a row, E experts, each with a bias of its own (1 where all rows share one), R rows of each (all axes
between together), P programs that share the rows of an expert, O outputs of the linear layer.
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
from gatedvision_kernels._gelu import normal_distribution, tanh_distribution
from gatedvision_kernels._operator import custom_op, launcher
from gatedvision_kernels._recomputed_linear import check_linear, linear, recomputed_linear
from gatedvision_kernels._rows import block_of, ceil_div, num_programs
from gatedvision_kernels._triton import jit, tl
from gatedvision_kernels._two_ways import two_ways


def bias_gelu(x: Tensor, bias: Tensor, *, approximate: str = "none", backend: str = "auto") -> Tensor:
    """Add a bias to each channel and apply GELU.

    Args:
        x: ``[..., D]``, or ``[E, ..., D]`` for a bias of each expert.
        bias: ``[D]`` or ``[E, D]``, in any floating dtype.
        approximate: ``"none"`` for the normal distribution, ``"tanh"`` for the form with the hyperbolic tangent.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        ``x``'s shape and dtype, computed in float32 or wider.

    Raises:
        ValueError: if shapes or dtypes do not fit, the form is unknown, or the backend cannot run on these tensors.
    """
    _check(x, bias, approximate)
    if use_triton(backend, x, bias):
        return _run(x, bias, approximate)
    return bias_gelu_reference(x, bias, approximate)


def bias_gelu_linear(
    x: Tensor,
    x_bias: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    *,
    approximate: str = "none",
    backend: str = "auto",
) -> Tensor:
    """Apply a linear layer to the GELU; the kernels compute the GELU again rather than keep it.

    Args:
        x: as for :func:`bias_gelu`.
        x_bias: added to ``x``, as for :func:`bias_gelu`.
        weight: ``[O, D]``, in any floating dtype.
        bias: ``[O]``, in any floating dtype, or nothing.
        approximate: as for :func:`bias_gelu`.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        ``[..., O]`` in the dtype of ``x``, to which the GELU is rounded and weight and bias are cast.

    Raises:
        ValueError: if shapes or dtypes do not fit, the form is unknown, or the backend cannot run on these tensors.
    """
    _check(x, x_bias, approximate)
    check_linear(weight, bias, x.shape[-1])
    parameters = (weight,) if bias is None else (weight, bias)
    if use_triton(backend, x, x_bias, *parameters):
        return _run_linear(weight, bias, x, x_bias, approximate)
    return bias_gelu_linear_reference(x, x_bias, weight, bias, approximate)


def bias_gelu_reference(x: Tensor, bias: Tensor, approximate: str = "none") -> Tensor:
    """Define :func:`bias_gelu` in plain torch: any device, float64 for float64 input."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if bias.ndim == 2:
        bias = bias.view([len(bias)] + [1] * (x.ndim - 2) + [bias.shape[1]])
    return F.gelu(x.to(dtype) + bias.to(dtype), approximate=approximate).to(x.dtype)


def bias_gelu_linear_reference(
    x: Tensor, x_bias: Tensor, weight: Tensor, bias: Optional[Tensor] = None, approximate: str = "none"
) -> Tensor:
    """Define :func:`bias_gelu_linear` in plain torch: any device, float64 for float64 input."""
    return linear(bias_gelu_reference(x, x_bias, approximate), weight, bias)


def _check(x: Tensor, bias: Tensor, approximate: str) -> None:
    if x.ndim == 0 or x.shape[-1] == 0 or not x.is_floating_point():
        raise ValueError(f"x must be floating point [..., D] with D > 0, got {x.dtype} {tuple(x.shape)}")
    of_experts = x.ndim > 1 and bias.shape == (x.shape[0], x.shape[-1]) and len(bias) > 0
    if not (bias.shape == x.shape[-1:] or of_experts) or not bias.is_floating_point():
        raise ValueError(
            f"bias must be floating point with one element per channel of x {tuple(x.shape)}, or that for each expert "
            f"of x [E, ..., D], got {bias.dtype} {tuple(bias.shape)}"
        )
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate must be 'none' or 'tanh', got {approximate!r}")


@jit
def _distribution(x, TANH: tl.constexpr):
    """Return Phi and its slope, in the form asked for."""
    if TANH:
        return tanh_distribution(x)
    else:
        return normal_distribution(x)


@jit
def _forward_kernel(
    x_ptr,  # [E, R, D]
    bias_ptr,  # [E, D]
    y_ptr,  # [E, R, D]
    num_rows,
    x_expert_stride,
    x_stride,
    TANH: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    columns = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)[None, :]
    expert = tl.program_id(2).to(tl.int64)
    mask = (rows < num_rows) & (columns < WIDTH)
    x_ptr += expert * x_expert_stride + rows * x_stride
    x = tl.load(x_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    x += tl.load(bias_ptr + expert * WIDTH + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    share, _ = _distribution(x, TANH)
    y_ptr += (expert * num_rows + rows) * WIDTH
    tl.store(y_ptr + columns, (x * share).to(y_ptr.dtype.element_ty), mask=mask)


@jit
def _backward_kernel(
    x_ptr,  # [E, R, D]
    bias_ptr,  # [E, D]
    grad_y_ptr,  # [E, R, D]
    y_ptr,  # [E, R, D], the output once more, or nothing
    grad_x_ptr,  # [E, R, D]
    sums_ptr,  # [E, P, D] float32, of the gradient of x
    num_rows,
    x_expert_stride,
    x_stride,
    grad_y_expert_stride,
    grad_y_stride,
    TANH: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    columns = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)[None, :]
    expert = tl.program_id(2).to(tl.int64)
    bias = tl.load(bias_ptr + expert * WIDTH + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    x_ptr += expert * x_expert_stride + columns
    grad_y_ptr += expert * grad_y_expert_stride + columns
    # Summed over rows only once, at the end: inside the loop that would cost a reduction per block.
    sums = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(num_rows, BLOCK_ROWS), tl.num_programs(0)):
        rows = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS).to(tl.int64)[:, None]
        mask = (rows < num_rows) & (columns < WIDTH)
        offsets = (expert * num_rows + rows) * WIDTH + columns
        x = tl.load(x_ptr + rows * x_stride, mask=mask, other=0.0).to(tl.float32) + bias
        grad_y = tl.load(grad_y_ptr + rows * grad_y_stride, mask=mask, other=0.0).to(tl.float32)
        share, slope = _distribution(x, TANH)
        if y_ptr is not None:
            tl.store(y_ptr + offsets, (x * share).to(y_ptr.dtype.element_ty), mask=mask)
        grad_x = grad_y * (share + x * slope)
        tl.store(grad_x_ptr + offsets, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)
        sums += grad_x
    sums_ptr += (expert * tl.num_programs(0) + tl.program_id(0)) * WIDTH + columns
    tl.store(sums_ptr, tl.sum(sums, axis=0)[None, :], mask=columns < WIDTH)


def _by_expert(x: Tensor, bias: Tensor) -> Tensor:
    """View ``[E, ..., D]`` as ``[E, R, D]`` with adjacent elements, copying only where strides force it."""
    rows = x.reshape(len(bias) if bias.ndim == 2 else 1, -1, x.shape[-1])
    return rows if rows.stride(2) == 1 else rows.contiguous()


def _forward(x: Tensor, bias: Tensor, approximate: str) -> Tensor:
    y = x.new_empty(x.shape)
    x = _by_expert(x, bias)
    num_experts, num_rows, width = x.shape
    tile = block_of(width)
    grid = (ceil_div(num_rows, tile["BLOCK_ROWS"]), ceil_div(width, tile["BLOCK_WIDTH"]), num_experts)
    with on_device_of(x):
        launcher(_forward_kernel)[grid](
            x, bias.contiguous(), y, num_rows, *x.stride()[:2], TANH=approximate == "tanh", WIDTH=width, **tile
        )
    return y


def _backward(grad_y: Tensor, x: Tensor, bias: Tensor, approximate: str) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``x`` and, in float32, ``bias``."""
    return _launch_backward(grad_y, x, bias, approximate, None)


def _backward_with_output(grad_y: Tensor, x: Tensor, bias: Tensor, approximate: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return what :func:`_backward` does, and the output once more."""
    y = x.new_empty(x.shape)
    return *_launch_backward(grad_y, x, bias, approximate, y), y


def _launch_backward(
    grad_y: Tensor, x: Tensor, bias: Tensor, approximate: str, y: Optional[Tensor]
) -> tuple[Tensor, Tensor]:
    """Write the output once more to ``y``, if there is one, and return the gradients."""
    grad_x = x.new_empty(x.shape)
    x, grad_y = _by_expert(x, bias), _by_expert(grad_y, bias)
    num_experts, num_rows, width = x.shape
    tile = block_of(width)
    blocks = num_experts * ceil_div(num_rows, tile["BLOCK_ROWS"])
    programs = ceil_div(num_programs(x.device, blocks), num_experts)
    sums = x.new_empty((num_experts, programs, width), dtype=torch.float32)
    with on_device_of(x):
        launcher(_backward_kernel)[(programs, ceil_div(width, tile["BLOCK_WIDTH"]), num_experts)](
            x,
            bias.contiguous(),
            grad_y,
            y,
            grad_x,
            sums,
            num_rows,
            *x.stride()[:2],
            *grad_y.stride()[:2],
            TANH=approximate == "tanh",
            WIDTH=width,
            **tile,
        )
    return grad_x, sums.sum(1).view(bias.shape)


SCHEMA = "Tensor x, Tensor bias, str approximate"
_bias_gelu = custom_op("bias_gelu", _forward, schema=f"({SCHEMA}) -> Tensor")
_bias_gelu_backward = custom_op(
    "bias_gelu_backward", _backward, schema=f"(Tensor grad_y, {SCHEMA}) -> (Tensor, Tensor)"
)
_bias_gelu_linear_backward = custom_op(
    "bias_gelu_linear_backward",
    _backward_with_output,
    schema=f"(Tensor grad_y, {SCHEMA}) -> (Tensor, Tensor, Tensor)",
)


@_bias_gelu.register_fake
def _(x: Tensor, bias: Tensor, approximate: str) -> Tensor:
    return x.new_empty(x.shape)


@_bias_gelu_backward.register_fake
def _(grad_y: Tensor, x: Tensor, bias: Tensor, approximate: str) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), bias.new_empty(bias.shape, dtype=torch.float32)


@_bias_gelu_linear_backward.register_fake
def _(grad_y: Tensor, x: Tensor, bias: Tensor, approximate: str) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), bias.new_empty(bias.shape, dtype=torch.float32), x.new_empty(x.shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Tensor) -> None:
    x, bias, ctx.approximate = inputs
    ctx.save_for_backward(x, bias)


def _differentiate(backward: Callable, ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor, None]:
    x, bias = ctx.saved_tensors
    grad_x, grad_bias = backward(grad_y, x, bias, ctx.approximate)
    return grad_x, grad_bias.to(bias.dtype), None


_run = two_ways(_bias_gelu, _forward, _bias_gelu_backward, _backward, _save, _differentiate)
_run_linear = recomputed_linear(
    "bias_gelu_linear",
    "Tensor x, Tensor x_bias, str approximate",
    _forward,
    _bias_gelu_linear_backward,
    _backward_with_output,
)
