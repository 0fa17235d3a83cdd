"""Layer norm over channels, alone or fused with the scaled residual sum before it.

For each row x of D elements, with the variance taken over the row (J. L. Ba, J. R. Kiros and G. E. Hinton,
arXiv:1607.06450)::

    y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias

The norm before every branch of HorNet, of maps that have their channels last.
Shapes: D width of a row, R rows (all leading axes together), P programs that share the rows.
"""
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from gatedvision_kernels._device import on_device_of
from gatedvision_kernels._dispatch import use_triton
from gatedvision_kernels._operator import custom_op, launcher
from gatedvision_kernels._rows import as_rows, ceil_div, num_programs
from gatedvision_kernels._triton import jit, tl, triton
from gatedvision_kernels._two_ways import two_ways

# The backward kernel holds six numbers for each element of a tile; with more elements a thread they would spill.
TILE_ELEMENTS = 2048
ELEMENTS_PER_THREAD = 16


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-6, backend: str = "auto") -> Tensor:
    """Normalise each row to mean 0 and variance 1, then scale and shift its channels.

    Args:
        x: ``[..., D]``.
        weight: ``[D]``, in any floating dtype.
        bias: ``[D]``, in any floating dtype.
        eps: added to the variance.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        ``[..., D]`` in the dtype of ``x``; statistics are taken in float32 or wider.

    Raises:
        ValueError: if shapes or dtypes do not fit, or the backend cannot run on these tensors.
    """
    _check(x, weight=weight, bias=bias)
    if use_triton(backend, x, weight, bias):
        return _run_layer_norm(x, weight, bias, eps)
    return layer_norm_reference(x, weight, bias, eps)


def add_layer_norm(
    x: Tensor,
    residual: Tensor,
    scale: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float = 1e-6,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Add a branch, each channel times its layer scale, to the residual stream and normalise the sum.

    Args:
        x: ``[..., D]``, output of the branch.
        residual: ``[..., D]``, the stream, often in a wider dtype than ``x``.
        scale: ``[D]``, layer scale of the branch, in any floating dtype.
        weight: ``[D]``, in any floating dtype.
        bias: ``[D]``, in any floating dtype.
        eps: added to the variance.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        The normalised sum in the dtype of ``x`` and the sum in the dtype of ``residual``, both
        ``[..., D]``. The norm is that of the sum as rounded to the dtype of ``residual``.

    Raises:
        ValueError: if shapes or dtypes do not fit, or the backend cannot run on these tensors.
    """
    _check(x, scale=scale, weight=weight, bias=bias)
    if residual.shape != x.shape or not residual.is_floating_point():
        raise ValueError(
            f"residual must be floating point in the shape of x, {tuple(x.shape)}; "
            f"got {residual.dtype} {tuple(residual.shape)}"
        )
    if use_triton(backend, x, residual, scale, weight, bias):
        return _run_add_layer_norm(x, residual, scale, weight, bias, eps)
    return add_layer_norm_reference(x, residual, scale, weight, bias, eps)


def layer_norm_reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-6) -> Tensor:
    """Define :func:`layer_norm` in plain torch: any device, float64 for float64 input."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return F.layer_norm(x.to(dtype), [x.shape[-1]], weight.to(dtype), bias.to(dtype), eps).to(x.dtype)


def add_layer_norm_reference(
    x: Tensor, residual: Tensor, scale: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Define :func:`add_layer_norm` in plain torch: any device, float64 for float64 input."""
    dtype = torch.promote_types(residual.dtype, torch.float32)
    total = torch.addcmul(residual.to(dtype), scale.to(dtype), x.to(dtype)).to(residual.dtype)
    return layer_norm_reference(total, weight, bias, eps).to(x.dtype), total


def _check(x: Tensor, **vectors: Tensor) -> None:
    if x.ndim == 0 or x.shape[-1] == 0 or not x.is_floating_point():
        raise ValueError(f"x must be floating point [..., D] with D > 0, got {x.dtype} {tuple(x.shape)}")
    for name, vector in vectors.items():
        if vector.shape != x.shape[-1:] or not vector.is_floating_point():
            raise ValueError(
                f"{name} must be floating point with one element per channel of x {tuple(x.shape)}, "
                f"got {vector.dtype} {tuple(vector.shape)}"
            )


@jit
def _mean(x, WIDTH: tl.constexpr):
    """Return the means of rows that are zero behind their end, ``[R, 1]``."""
    # Correctly rounded, so that it is exact where it can be: little variance would blow up what is not.
    total = tl.sum(x, axis=1)
    return tl.div_rn(total, tl.zeros_like(total) + WIDTH)[:, None]


@jit
def _forward_kernel(
    x_ptr,  # [R, D]
    residual_ptr,  # [R, D], or None without a residual
    scale_ptr,  # [D], or None without a residual
    weight_ptr,  # [D]
    bias_ptr,  # [D]
    y_ptr,  # [R, D]
    total_ptr,  # [R, D], or None without a residual
    num_rows,
    x_stride,
    residual_stride,
    eps,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    # Code that torch.compile writes passes numbers in double precision.
    eps = tl.cast(eps, tl.float32)
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    columns = tl.arange(0, BLOCK_WIDTH)[None, :]
    inside = columns < WIDTH
    mask = (rows < num_rows) & inside
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + columns, mask=inside, other=0.0).to(tl.float32)

    x = tl.load(x_ptr + rows * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
    if residual_ptr is not None:
        x *= tl.load(scale_ptr + columns, mask=inside, other=0.0).to(tl.float32)
        x += tl.load(residual_ptr + rows * residual_stride + columns, mask=mask, other=0.0).to(tl.float32)
        total = x.to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + rows * WIDTH + columns, total, mask=mask)
        x = total.to(tl.float32)
    centred = tl.where(inside, x - _mean(x, WIDTH), 0.0)
    deviation = tl.rsqrt(tl.sum(centred * centred, axis=1) / WIDTH + eps)[:, None]
    y = centred * deviation * weight + bias
    tl.store(y_ptr + rows * WIDTH + columns, y.to(y_ptr.dtype.element_ty), mask=mask)


@jit
def _backward_kernel(
    total_ptr,  # [R, D], what was normalised
    x_ptr,  # [R, D] the branch, or None without a residual
    scale_ptr,  # [D], or None without a residual
    weight_ptr,  # [D]
    grad_y_ptr,  # [R, D]
    grad_total_ptr,  # [R, D], or None without a second gradient of the sum
    grad_x_ptr,  # [R, D], or None without a residual
    grad_residual_ptr,  # [R, D], gradient of what was normalised
    grad_vectors_ptr,  # [P, VECTORS, D] float32: of weight, bias and, with a residual, scale
    num_rows,
    total_stride,
    x_stride,
    grad_y_stride,
    grad_total_stride,
    eps,
    VECTORS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    # Code that torch.compile writes passes numbers in double precision.
    eps = tl.cast(eps, tl.float32)
    columns = tl.arange(0, BLOCK_WIDTH)[None, :]
    inside = columns < WIDTH
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    # Summed over rows only once, at the end: inside the loop that would cost a reduction per block.
    grad_weight = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), tl.float32)
    grad_bias = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), tl.float32)
    grad_scale = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(num_rows, BLOCK_ROWS), tl.num_programs(0)):
        rows = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS).to(tl.int64)[:, None]
        mask = (rows < num_rows) & inside
        total = tl.load(total_ptr + rows * total_stride + columns, mask=mask, other=0.0).to(tl.float32)
        grad_y = tl.load(grad_y_ptr + rows * grad_y_stride + columns, mask=mask, other=0.0).to(tl.float32)
        # Taken again rather than saved: the row is here anyway.
        centred = tl.where(inside, total - _mean(total, WIDTH), 0.0)
        deviation = tl.rsqrt(tl.sum(centred * centred, axis=1) / WIDTH + eps)[:, None]
        normed = centred * deviation
        grad_weight += grad_y * normed
        grad_bias += grad_y
        grad_normed = grad_y * weight
        mean = tl.sum(grad_normed, axis=1)[:, None] / WIDTH
        projection = tl.sum(grad_normed * normed, axis=1)[:, None] / WIDTH
        grad = (grad_normed - mean - normed * projection) * deviation
        if grad_total_ptr is not None:
            offsets = rows * grad_total_stride + columns
            grad += tl.load(grad_total_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        tl.store(grad_residual_ptr + rows * WIDTH + columns, grad.to(grad_residual_ptr.dtype.element_ty), mask=mask)
        if x_ptr is not None:
            scale = tl.load(scale_ptr + columns, mask=inside, other=0.0).to(tl.float32)
            grad_scale += grad * tl.load(x_ptr + rows * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
            tl.store(grad_x_ptr + rows * WIDTH + columns, (grad * scale).to(grad_x_ptr.dtype.element_ty), mask=mask)
    vectors = grad_vectors_ptr + tl.program_id(0) * (VECTORS * WIDTH) + columns
    tl.store(vectors, tl.sum(grad_weight, axis=0)[None, :], mask=inside)
    tl.store(vectors + WIDTH, tl.sum(grad_bias, axis=0)[None, :], mask=inside)
    if x_ptr is not None:
        tl.store(vectors + 2 * WIDTH, tl.sum(grad_scale, axis=0)[None, :], mask=inside)


@lru_cache
def _tile_of(width: int) -> dict[str, int]:
    block_width = triton.next_power_of_2(width)
    block_rows = max(1, TILE_ELEMENTS // block_width)
    num_warps = min(16, max(4, block_rows * block_width // (32 * ELEMENTS_PER_THREAD)))
    return {"BLOCK_ROWS": block_rows, "BLOCK_WIDTH": block_width, "num_warps": num_warps}


def _forward(
    x: Tensor, residual: Tensor | None, scale: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor | None]:
    """Launch the forward kernel and return the norm and, with a residual, the sum."""
    y = x.new_empty(x.shape)
    total = None if residual is None else residual.new_empty(residual.shape)
    x = as_rows(x)
    residual = None if residual is None else as_rows(residual)
    num_rows, width = x.shape
    tile = _tile_of(width)
    with on_device_of(x):
        launcher(_forward_kernel)[(ceil_div(num_rows, tile["BLOCK_ROWS"]),)](
            x,
            residual,
            None if scale is None else scale.contiguous(),
            weight.contiguous(),
            bias.contiguous(),
            y,
            total,
            num_rows,
            x.stride(0),
            0 if residual is None else residual.stride(0),
            eps,
            WIDTH=width,
            **tile,
        )
    return y, total


def _forward_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return _forward(x, None, None, weight, bias, eps)[0]


def _forward_add_layer_norm(
    x: Tensor, residual: Tensor, scale: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    y, total = _forward(x, residual, scale, weight, bias, eps)
    assert total is not None
    return y, total


def _launch_backward(
    grad_y: Tensor,
    grad_total: Tensor | None,
    total: Tensor,
    x: Tensor | None,
    scale: Tensor | None,
    weight: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return the gradients of the sum, of the branch and, ``[2 or 3, D]`` float32, of weight, bias and scale."""
    grad_residual = total.new_empty(total.shape)
    grad_x = None if x is None else x.new_empty(x.shape)
    total, grad_y = as_rows(total), as_rows(grad_y)
    x = None if x is None else as_rows(x)
    grad_total = None if grad_total is None else as_rows(grad_total)
    num_rows, width = total.shape
    tile = _tile_of(width)
    programs = num_programs(total.device, ceil_div(num_rows, tile["BLOCK_ROWS"]))
    vectors = 2 if x is None else 3
    grad_vectors = total.new_empty((programs, vectors, width), dtype=torch.float32)
    with on_device_of(total):
        launcher(_backward_kernel)[(programs,)](
            total,
            x,
            None if scale is None else scale.contiguous(),
            weight.contiguous(),
            grad_y,
            grad_total,
            grad_x,
            grad_residual,
            grad_vectors,
            num_rows,
            total.stride(0),
            0 if x is None else x.stride(0),
            grad_y.stride(0),
            0 if grad_total is None else grad_total.stride(0),
            eps,
            VECTORS=vectors,
            WIDTH=width,
            **tile,
        )
    return grad_residual, grad_x, grad_vectors.sum(0)


def _backward_layer_norm(grad_y: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``x`` and, ``[2, D]`` float32, of weight and bias."""
    grad_x, _, grad_vectors = _launch_backward(grad_y, None, x, None, None, weight, eps)
    return grad_x, grad_vectors


def _backward_add_layer_norm(
    grad_y: Tensor, grad_total: Tensor | None, total: Tensor, x: Tensor, scale: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of residual, branch and, ``[3, D]`` float32, of weight, bias and scale."""
    grad_residual, grad_x, grad_vectors = _launch_backward(grad_y, grad_total, total, x, scale, weight, eps)
    assert grad_x is not None
    return grad_residual, grad_x, grad_vectors


_layer_norm = custom_op(
    "layer_norm",
    _forward_layer_norm,
    schema="(Tensor x, Tensor weight, Tensor bias, float eps) -> Tensor",
)
_add_layer_norm = custom_op(
    "add_layer_norm",
    _forward_add_layer_norm,
    schema="(Tensor x, Tensor residual, Tensor scale, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor)",
)
_layer_norm_backward = custom_op(
    "layer_norm_backward",
    _backward_layer_norm,
    schema="(Tensor grad_y, Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)",
)
_add_layer_norm_backward = custom_op(
    "add_layer_norm_backward",
    _backward_add_layer_norm,
    schema="(Tensor grad_y, Tensor? grad_total, Tensor total, Tensor x, Tensor scale, Tensor weight, float eps)"
    " -> (Tensor, Tensor, Tensor)",
)


@_layer_norm.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return x.new_empty(x.shape)


@_add_layer_norm.register_fake
def _(x: Tensor, residual: Tensor, scale: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), residual.new_empty(residual.shape)


@_layer_norm_backward.register_fake
def _(grad_y: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((2, x.shape[-1]), dtype=torch.float32)


@_add_layer_norm_backward.register_fake
def _(
    grad_y: Tensor, grad_total: Tensor | None, total: Tensor, x: Tensor, scale: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    grad_vectors = total.new_empty((3, total.shape[-1]), dtype=torch.float32)
    return total.new_empty(total.shape), x.new_empty(x.shape), grad_vectors


def _save_layer_norm(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: Tensor) -> None:
    x, weight, bias, ctx.eps = inputs
    ctx.bias_dtype = bias.dtype
    ctx.save_for_backward(x, weight)


def _differentiate_layer_norm(backward: Callable, ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    x, weight = ctx.saved_tensors
    grad_x, grad_vectors = backward(grad_y, x, weight, ctx.eps)
    return grad_x, grad_vectors[0].to(weight.dtype), grad_vectors[1].to(ctx.bias_dtype), None


def _save_add_layer_norm(
    ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float], output: tuple[Tensor, Tensor]
) -> None:
    x, _, scale, weight, bias, ctx.eps = inputs
    ctx.bias_dtype = bias.dtype
    ctx.save_for_backward(output[1], x, scale, weight)
    # An unused output then costs nothing: its gradient arrives as None and not as zeros to read.
    ctx.set_materialize_grads(False)


def _differentiate_add_layer_norm(
    backward: Callable, ctx: Any, grad_y: Optional[Tensor], grad_total: Optional[Tensor]
) -> tuple[Optional[Tensor], ...]:
    total, x, scale, weight = ctx.saved_tensors
    if grad_y is None:
        # Only the sum was used. Rare, so in plain torch.
        if grad_total is None:
            return (None,) * 6
        grad_scale = (grad_total * x).flatten(0, -2).sum(0, dtype=torch.float32) if x.ndim > 1 else grad_total * x
        return (grad_total * scale).to(x.dtype), grad_total, grad_scale.to(scale.dtype), None, None, None
    grad_residual, grad_x, grad_vectors = backward(grad_y, grad_total, total, x, scale, weight, ctx.eps)
    return (
        grad_x,
        grad_residual,
        grad_vectors[2].to(scale.dtype),
        grad_vectors[0].to(weight.dtype),
        grad_vectors[1].to(ctx.bias_dtype),
        None,
    )


_run_layer_norm = two_ways(
    _layer_norm,
    _forward_layer_norm,
    _layer_norm_backward,
    _backward_layer_norm,
    _save_layer_norm,
    _differentiate_layer_norm,
)
_run_add_layer_norm = two_ways(
    _add_layer_norm,
    _forward_add_layer_norm,
    _add_layer_norm_backward,
    _backward_add_layer_norm,
    _save_add_layer_norm,
    _differentiate_add_layer_norm,
)
