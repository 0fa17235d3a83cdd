"""Root mean square norm, alone or fused with the residual sum before it.

For each row x of D elements (B. Zhang and R. Sennrich, arXiv:1910.07467)::

    y = x / sqrt(mean(x^2) + eps) * weight

The norm before every mixer and MLP of ViG.
Shapes: D width of a row, R rows (all leading axes together), P programs that share the rows.
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
from gatedvision_kernels._rows import as_rows, ceil_div, num_programs, tile_of
from gatedvision_kernels._triton import jit, tl
from gatedvision_kernels._tuning import setting
from gatedvision_kernels._two_ways import two_ways


def rms_norm(x: Tensor, weight: Tensor, *, eps: float = 1e-6, backend: str = "auto") -> Tensor:
    """Divide each row by its root mean square and multiply it by a weight per channel.

    Args:
        x: ``[..., D]``.
        weight: ``[D]``, in any floating dtype.
        eps: added to the mean square.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        ``[..., D]`` in the dtype of ``x``; statistics are taken in float32 or wider.

    Raises:
        ValueError: if shapes or dtypes do not fit, or the backend cannot run on these tensors.
    """
    _check(x, weight)
    if use_triton(backend, x, weight):
        return _run_rms_norm(x, weight, eps)
    return rms_norm_reference(x, weight, eps)


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor, *, eps: float = 1e-6, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Add a branch to the residual stream and normalise the sum.

    Args:
        x: ``[..., D]``, output of the branch.
        residual: ``[..., D]``, the stream, often in a wider dtype than ``x``.
        weight: ``[D]``, in any floating dtype.
        eps: added to the mean square.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        The normalised sum in the dtype of ``x`` and the sum in the dtype of ``residual``, both
        ``[..., D]``. The norm is that of the sum as rounded to the dtype of ``residual``.

    Raises:
        ValueError: if shapes or dtypes do not fit, or the backend cannot run on these tensors.
    """
    _check(x, weight)
    if residual.shape != x.shape or not residual.is_floating_point():
        raise ValueError(
            f"residual must be floating point in the shape of x, {tuple(x.shape)}; "
            f"got {residual.dtype} {tuple(residual.shape)}"
        )
    if use_triton(backend, x, residual, weight):
        return _run_add_rms_norm(x, residual, weight, eps)
    return add_rms_norm_reference(x, residual, weight, eps)


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """Define :func:`rms_norm` in plain torch: any device, float64 for float64 input."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (normed * weight.to(wide.dtype)).to(x.dtype)


def add_rms_norm_reference(x: Tensor, residual: Tensor, weight: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Define :func:`add_rms_norm` in plain torch: any device, float64 for float64 input."""
    total = (x + residual).to(residual.dtype)
    return rms_norm_reference(total, weight, eps).to(x.dtype), total


def _check(x: Tensor, weight: Tensor) -> None:
    if x.ndim == 0 or weight.shape != x.shape[-1:] or x.shape[-1] == 0:
        raise ValueError(
            f"weight must have one element per channel of x [..., D], D > 0; "
            f"got weight {tuple(weight.shape)} for x {tuple(x.shape)}"
        )
    if not (x.is_floating_point() and weight.is_floating_point()):
        raise ValueError(f"x and weight must be floating point, got {x.dtype} and {weight.dtype}")


@jit
def _forward_kernel(
    x_ptr,  # [R, D]
    residual_ptr,  # [R, D], or None without a residual
    weight_ptr,  # [D]
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
    mask = (rows < num_rows) & (columns < WIDTH)
    weight = tl.load(weight_ptr + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)

    x = tl.load(x_ptr + rows * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
    if residual_ptr is not None:
        x += tl.load(residual_ptr + rows * residual_stride + columns, mask=mask, other=0.0).to(tl.float32)
        total = x.to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + rows * WIDTH + columns, total, mask=mask)
        x = total.to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, axis=1) / WIDTH + eps)[:, None]
    y = x * scale * weight
    tl.store(y_ptr + rows * WIDTH + columns, y.to(y_ptr.dtype.element_ty), mask=mask)


@jit
def _backward_kernel(
    x_ptr,  # [R, D], what was normalised
    weight_ptr,  # [D]
    grad_y_ptr,  # [R, D]
    grad_total_ptr,  # [R, D], or None without a second gradient of x
    grad_x_ptr,  # [R, D]
    grad_weight_ptr,  # [P, D]
    num_rows,
    x_stride,
    grad_y_stride,
    grad_total_stride,
    eps,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    # Code that torch.compile writes passes numbers in double precision.
    eps = tl.cast(eps, tl.float32)
    columns = tl.arange(0, BLOCK_WIDTH)[None, :]
    weight = tl.load(weight_ptr + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    # Summed over rows only once, at the end: inside the loop that would cost a reduction per block.
    grad_weight = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(num_rows, BLOCK_ROWS), tl.num_programs(0)):
        rows = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS).to(tl.int64)[:, None]
        mask = (rows < num_rows) & (columns < WIDTH)
        x = tl.load(x_ptr + rows * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
        grad_y = tl.load(grad_y_ptr + rows * grad_y_stride + columns, mask=mask, other=0.0).to(tl.float32)
        # Taken again rather than saved: the row is here anyway.
        scale = tl.rsqrt(tl.sum(x * x, axis=1) / WIDTH + eps)[:, None]
        normed = x * scale
        grad_weight += grad_y * normed
        grad_normed = grad_y * weight
        projection = tl.sum(grad_normed * normed, axis=1)[:, None] / WIDTH
        grad_x = (grad_normed - normed * projection) * scale
        if grad_total_ptr is not None:
            offsets = rows * grad_total_stride + columns
            grad_x += tl.load(grad_total_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        tl.store(grad_x_ptr + rows * WIDTH + columns, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)
    grad_weight = tl.sum(grad_weight, axis=0)[None, :]
    tl.store(grad_weight_ptr + tl.program_id(0) * WIDTH + columns, grad_weight, mask=columns < WIDTH)


def _forward(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor | None]:
    """Launch the forward kernel and return the norm and, with a residual, the sum."""
    y = x.new_empty(x.shape)
    total = None if residual is None else residual.new_empty(residual.shape)
    x = as_rows(x)
    residual = None if residual is None else as_rows(residual)
    num_rows, width = x.shape
    tile = tile_of(width, setting("row_elements"))
    with on_device_of(x):
        launcher(_forward_kernel)[(ceil_div(num_rows, tile["BLOCK_ROWS"]),)](
            x,
            residual,
            weight.contiguous(),
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


def _forward_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return _forward(x, None, weight, eps)[0]


def _forward_add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    y, total = _forward(x, residual, weight, eps)
    assert total is not None
    return y, total


def _backward(
    grad_y: Tensor, grad_total: Tensor | None, x: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the gradients of what was normalised (plus ``grad_total``) and of the weight."""
    grad_x = x.new_empty(x.shape)
    x, grad_y = as_rows(x), as_rows(grad_y)
    grad_total = None if grad_total is None else as_rows(grad_total)
    num_rows, width = x.shape
    tile = tile_of(width, setting("row_elements"))
    programs = num_programs(x.device, ceil_div(num_rows, tile["BLOCK_ROWS"]))
    partial_grad_weight = x.new_empty((programs, width), dtype=torch.float32)
    with on_device_of(x):
        launcher(_backward_kernel)[(programs,)](
            x,
            weight.contiguous(),
            grad_y,
            grad_total,
            grad_x,
            partial_grad_weight,
            num_rows,
            x.stride(0),
            grad_y.stride(0),
            0 if grad_total is None else grad_total.stride(0),
            eps,
            WIDTH=width,
            **tile,
        )
    return grad_x, partial_grad_weight.sum(0).to(weight.dtype)


_rms_norm = custom_op(
    "rms_norm",
    _forward_rms_norm,
    schema="(Tensor x, Tensor weight, float eps) -> Tensor",
)
_add_rms_norm = custom_op(
    "add_rms_norm",
    _forward_add_rms_norm,
    schema="(Tensor x, Tensor residual, Tensor weight, float eps) -> (Tensor, Tensor)",
)
_rms_norm_backward = custom_op(
    "rms_norm_backward",
    _backward,
    schema="(Tensor grad_y, Tensor? grad_total, Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)",
)


@_rms_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x.new_empty(x.shape)


@_add_rms_norm.register_fake
def _(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), residual.new_empty(residual.shape)


@_rms_norm_backward.register_fake
def _(grad_y: Tensor, grad_total: Tensor | None, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _save_rms_norm(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
    x, weight, ctx.eps = inputs
    ctx.save_for_backward(x, weight)


def _differentiate_rms_norm(backward: Callable, ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor, None]:
    x, weight = ctx.saved_tensors
    grad_x, grad_weight = backward(grad_y, None, x, weight, ctx.eps)
    return grad_x, grad_weight, None


def _save_add_rms_norm(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
    x, _, weight, ctx.eps = inputs
    ctx.x_dtype = x.dtype
    ctx.save_for_backward(output[1], weight)
    # An unused output then costs nothing: its gradient arrives as None and not as zeros to read.
    ctx.set_materialize_grads(False)


def _differentiate_add_rms_norm(
    backward: Callable, ctx: Any, grad_y: Tensor | None, grad_total: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
    total, weight = ctx.saved_tensors
    if grad_y is None:
        grad, grad_weight = grad_total, None
    else:
        grad, grad_weight = backward(grad_y, grad_total, total, weight, ctx.eps)
    return None if grad is None else grad.to(ctx.x_dtype), grad, grad_weight, None


_run_rms_norm = two_ways(
    _rms_norm, _forward_rms_norm, _rms_norm_backward, _backward, _save_rms_norm, _differentiate_rms_norm
)
_run_add_rms_norm = two_ways(
    _add_rms_norm, _forward_add_rms_norm, _rms_norm_backward, _backward, _save_add_rms_norm, _differentiate_add_rms_norm
)
