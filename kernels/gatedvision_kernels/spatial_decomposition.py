"""Spatial decomposition: what differs from a map's mean, weighed anew, then SiLU.

For each image and channel, with a scale s per channel (MogaNet, arXiv:2211.03295, section 4.2)::

    y = silu(x + s (x - mean(x))),  the mean over all pixels

The start of MogaNet's spatial mixer.
Shapes: B batch, H height, W width, C channels, N = H W pixels, R = B N pixels of all images; S shares into which the
pixels of an image are cut to be summed.
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
from gatedvision_kernels._rows import as_rows, block_of, ceil_div
from gatedvision_kernels._triton import jit, tl
from gatedvision_kernels._two_ways import two_ways

# A power of two: enough programs at a batch of a hundred, few enough for every program of the elementwise kernels to
# add up the sums of all shares.
SHARES = 8


def spatial_decomposition(x: Tensor, scale: Tensor, *, backend: str = "auto") -> Tensor:
    """Weigh anew what differs from the mean over the map, and apply SiLU.

    Args:
        x: ``[B, H, W, C]``.
        scale: ``[C]``, factor of the difference, in any floating dtype.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        ``[B, H, W, C]`` in the dtype of ``x``, computed in float32 or wider.

    Raises:
        ValueError: if shapes or dtypes do not fit, or the backend cannot run on these tensors.
    """
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise ValueError(f"x must be [B, H, W, C] with at least one pixel and channel, got {list(x.shape)}")
    if scale.shape != x.shape[3:]:
        raise ValueError(f"scale must be [C] beside x {list(x.shape)} of C = {x.shape[3]}, got {list(scale.shape)}")
    if not (x.is_floating_point() and scale.is_floating_point()):
        raise ValueError(f"x and scale must be floating point, got {x.dtype} and {scale.dtype}")
    if use_triton(backend, x, scale):
        return _run(x, scale)[0]
    return spatial_decomposition_reference(x, scale)


def spatial_decomposition_reference(x: Tensor, scale: Tensor) -> Tensor:
    """Define :func:`spatial_decomposition` in plain torch: any device, float64 for float64 input."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    # wide + scale (wide - mean), in one pass.
    return F.silu(torch.lerp(wide, wide.mean((1, 2), keepdim=True), -scale.to(wide.dtype))).to(x.dtype)


@jit
def _place_share(num_pixels, SHARES: tl.constexpr, BLOCK_WIDTH: tl.constexpr):
    """Return image, share and columns of a program that sums, and the first pixel of its share and of the next."""
    image = tl.program_id(0).to(tl.int64) // SHARES
    share = tl.program_id(0) % SHARES
    columns = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)[None, :]
    pixels = tl.cdiv(num_pixels, SHARES)
    return image, share, columns, share * pixels, tl.minimum(share * pixels + pixels, num_pixels)


@jit
def _place_block(num_pixels, BLOCK_ROWS: tl.constexpr, BLOCK_WIDTH: tl.constexpr):
    """Return image, columns, rows among all pixels, and which of the rows are there, of an elementwise program."""
    blocks = tl.cdiv(num_pixels, BLOCK_ROWS)
    image = tl.program_id(0).to(tl.int64) // blocks
    pixels = tl.program_id(0) % blocks * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    columns = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)[None, :]
    return image, columns, image * num_pixels + pixels, pixels < num_pixels


@jit
def _load_mean(sums_ptr, image, columns, num_pixels, SHARES: tl.constexpr, WIDTH: tl.constexpr):
    """Return the mean over the pixels of an image."""
    offsets = (image * SHARES + tl.arange(0, SHARES)[:, None]) * WIDTH + columns
    sums = tl.load(sums_ptr + offsets, mask=columns < WIDTH, other=0.0)
    return tl.sum(sums, axis=0)[None, :] / num_pixels


@jit
def _slope(z):
    """Return the slope of SiLU."""
    share = tl.sigmoid(z)
    return share + z * share * (1 - share)


@jit
def _sum_kernel(
    x_ptr,  # [R, C]
    sums_ptr,  # [B, S, C]
    num_pixels,
    x_stride,
    SHARES: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    image, share, columns, begin, end = _place_share(num_pixels, SHARES, BLOCK_WIDTH)
    sums = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), tl.float32)
    for first in range(begin, end, BLOCK_ROWS):
        pixels = first + tl.arange(0, BLOCK_ROWS)[:, None]
        mask = (pixels < end) & (columns < WIDTH)
        rows = image * num_pixels + pixels
        sums += tl.load(x_ptr + rows * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
    offsets = (image * SHARES + share) * WIDTH + columns
    tl.store(sums_ptr + offsets, tl.sum(sums, axis=0)[None, :], mask=columns < WIDTH)


@jit
def _forward_kernel(
    x_ptr,  # [R, C]
    scale_ptr,  # [C]
    sums_ptr,  # [B, S, C], of x
    y_ptr,  # [R, C]
    num_pixels,
    x_stride,
    SHARES: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    image, columns, rows, exists = _place_block(num_pixels, BLOCK_ROWS, BLOCK_WIDTH)
    mask = exists & (columns < WIDTH)
    x = tl.load(x_ptr + rows * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
    scale = tl.load(scale_ptr + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    mean = _load_mean(sums_ptr, image, columns, num_pixels, SHARES, WIDTH)
    z = x + scale * (x - mean)
    y = z * tl.sigmoid(z)
    tl.store(y_ptr + rows * WIDTH + columns, y.to(y_ptr.dtype.element_ty), mask=mask)


@jit
def _backward_sum_kernel(
    grad_y_ptr,  # [R, C]
    x_ptr,  # [R, C]
    scale_ptr,  # [C]
    sums_ptr,  # [B, S, C], of x
    grad_sums_ptr,  # [2, B, S, C]: gradient of what SiLU is applied to; that times the difference from the mean
    num_pixels,
    grad_y_stride,
    x_stride,
    SHARES: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    image, share, columns, begin, end = _place_share(num_pixels, SHARES, BLOCK_WIDTH)
    scale = tl.load(scale_ptr + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    mean = _load_mean(sums_ptr, image, columns, num_pixels, SHARES, WIDTH)
    sums = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), tl.float32)
    products = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), tl.float32)
    for first in range(begin, end, BLOCK_ROWS):
        pixels = first + tl.arange(0, BLOCK_ROWS)[:, None]
        mask = (pixels < end) & (columns < WIDTH)
        rows = image * num_pixels + pixels
        grad_y = tl.load(grad_y_ptr + rows * grad_y_stride + columns, mask=mask, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + rows * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
        difference = x - mean
        grad = grad_y * _slope(x + scale * difference)
        sums += grad
        products += grad * difference
    offsets = (image * SHARES + share) * WIDTH + columns
    tl.store(grad_sums_ptr + offsets, tl.sum(sums, axis=0)[None, :], mask=columns < WIDTH)
    offsets += tl.num_programs(0).to(tl.int64) * WIDTH
    tl.store(grad_sums_ptr + offsets, tl.sum(products, axis=0)[None, :], mask=columns < WIDTH)


@jit
def _backward_kernel(
    grad_y_ptr,  # [R, C]
    x_ptr,  # [R, C]
    scale_ptr,  # [C]
    sums_ptr,  # [B, S, C], of x
    grad_sums_ptr,  # [2, B, S, C], the sums of the gradient first
    grad_x_ptr,  # [R, C]
    num_pixels,
    grad_y_stride,
    x_stride,
    SHARES: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    image, columns, rows, exists = _place_block(num_pixels, BLOCK_ROWS, BLOCK_WIDTH)
    mask = exists & (columns < WIDTH)
    grad_y = tl.load(grad_y_ptr + rows * grad_y_stride + columns, mask=mask, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + rows * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
    scale = tl.load(scale_ptr + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    mean = _load_mean(sums_ptr, image, columns, num_pixels, SHARES, WIDTH)
    grad_mean = _load_mean(grad_sums_ptr, image, columns, num_pixels, SHARES, WIDTH)
    grad = grad_y * _slope(x + scale * (x - mean))
    # What a pixel adds to the mean is taken off all of them.
    grad_x = grad + scale * (grad - grad_mean)
    tl.store(grad_x_ptr + rows * WIDTH + columns, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)


def _forward(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output and the sums over the shares of ``x``, which the backward pass needs."""
    batch, height, width, channels = x.shape
    y = x.new_empty(x.shape)
    sums = x.new_empty((batch, SHARES, channels), dtype=torch.float32)
    x, pixels = as_rows(x), height * width
    tile = block_of(channels)
    blocks = ceil_div(channels, tile["BLOCK_WIDTH"])
    constants = {"SHARES": SHARES, "WIDTH": channels, **tile}
    with on_device_of(x):
        launcher(_sum_kernel)[(batch * SHARES, blocks)](x, sums, pixels, x.stride(0), **constants)
        launcher(_forward_kernel)[(batch * ceil_div(pixels, tile["BLOCK_ROWS"]), blocks)](
            x, scale.contiguous(), sums, y, pixels, x.stride(0), **constants
        )
    return y, sums


def _backward(grad_y: Tensor, x: Tensor, scale: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``x`` and, in float32, ``scale``."""
    batch, height, width, channels = x.shape
    grad_x = x.new_empty(x.shape)
    grad_sums = x.new_empty((2, batch, SHARES, channels), dtype=torch.float32)
    grad_y, x, scale, pixels = as_rows(grad_y), as_rows(x), scale.contiguous(), height * width
    tile = block_of(channels)
    blocks = ceil_div(channels, tile["BLOCK_WIDTH"])
    strides = (grad_y.stride(0), x.stride(0))
    constants = {"SHARES": SHARES, "WIDTH": channels, **tile}
    with on_device_of(x):
        launcher(_backward_sum_kernel)[(batch * SHARES, blocks)](
            grad_y, x, scale, sums, grad_sums, pixels, *strides, **constants
        )
        launcher(_backward_kernel)[(batch * ceil_div(pixels, tile["BLOCK_ROWS"]), blocks)](
            grad_y, x, scale, sums, grad_sums, grad_x, pixels, *strides, **constants
        )
    return grad_x, grad_sums[1].sum((0, 1))


_spatial_decomposition = custom_op(
    "spatial_decomposition",
    _forward,
    schema="(Tensor x, Tensor scale) -> (Tensor, Tensor)",
)
_spatial_decomposition_backward = custom_op(
    "spatial_decomposition_backward",
    _backward,
    schema="(Tensor grad_y, Tensor x, Tensor scale, Tensor sums) -> (Tensor, Tensor)",
)


@_spatial_decomposition.register_fake
def _(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((x.shape[0], SHARES, x.shape[3]), dtype=torch.float32)


@_spatial_decomposition_backward.register_fake
def _(grad_y: Tensor, x: Tensor, scale: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), scale.new_empty(scale.shape, dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])
    # Zeros for the sums, which have no gradient, would have to be written.
    ctx.set_materialize_grads(False)


def _differentiate(backward: Callable, ctx: Any, grad_y: Tensor, _grad_sums: None) -> tuple[Tensor, Tensor]:
    x, scale, sums = ctx.saved_tensors
    grad_x, grad_scale = backward(grad_y, x, scale, sums)
    return grad_x, grad_scale.to(scale.dtype)


_run = two_ways(_spatial_decomposition, _forward, _spatial_decomposition_backward, _backward, _save, _differentiate)
