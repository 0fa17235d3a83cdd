"""Global filter: each channel's two-dimensional spectrum times complex numbers of its own.

For each image and channel of an H x W map, with filters k of F = W // 2 + 1 frequencies along the width (GFNet,
arXiv:2107.00645, section 3.2; HorNet, arXiv:2207.14284)::

    y = irfft2(k rfft2(x)),  both orthonormal

The kernels take both transforms as products with one table of cosines and one of sines, T_c and T_s, of all pixels p
and frequencies q = (u, v), n_q = 2 where q stands for its conjugate, too, and 1 where v is 0 or W / 2::

    T_c, T_s = cos, sin of 2 pi (u h / H + v w / W), over sqrt(H W)
    c, s = T_c x, T_s x
    y = T_c' n (k_r c + k_i s) + T_s' n (k_r s - k_i c)

The spectrum stays in registers: x is read, y written. The gradient of x is the same of the output's with k conjugate.
An FFT of so few points is all transport, of maps in float32 and of spectra, and of each channel's numbers to each
other's side. The products are 8 P Q operations an image and channel, so they pay for small maps alone.

Shapes: B batch, H height, W width, C channels, F frequencies along the width, P = H W pixels, Q = H F frequencies; G
groups of images that a program takes together.
"""
# pyright: reportArgumentType=false

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gatedvision_kernels._device import on_device_of
from gatedvision_kernels._dispatch import interpreting, use_triton
from gatedvision_kernels._operator import custom_op, launcher
from gatedvision_kernels._rows import as_rows, ceil_div
from gatedvision_kernels._triton import jit, tl, triton
from gatedvision_kernels._two_ways import two_ways

# What the kernels take: operands of tensor cores, and as many pixels as a program holds in registers.
OPERAND_DTYPES = (torch.bfloat16, torch.float16)
MAX_PIXELS = 256
# Each program takes all pixels of a few images and adjacent channels, and so many frequencies at a time. On an H200,
# 128 maps of 14 x 14 x 240 took 57 us forward and 168 us for both passes in bfloat16, and of 7 x 7 x 496 18 and 52 us;
# 2 images and 32 channels 69, 215 and 22, 70 us.
TILE = {"BLOCK_IMAGES": 4, "BLOCK_CHANNELS": 16, "num_warps": 4, "num_stages": 1}
MAX_CHUNK = 32
# Tensor cores take no fewer than 16 of anything.
LEAST = 16
TABLE_BLOCK = LEAST * LEAST


def filter_spectrum(x: Tensor, weight: Tensor, *, backend: str = "auto") -> Tensor:
    """Multiply each channel's two-dimensional spectrum by a complex filter of its own.

    Both transforms are orthonormal. The inverse goes over the height first, and the one over the width takes its
    frequency 0, and the highest of an even width, as real, whatever the filter has made of them.

    Args:
        x: maps ``[B, H, W, C]``.
        weight: filters ``[C, H, F, 2]`` of ``F = W // 2 + 1`` frequencies, real and imaginary parts last, in any
            floating dtype.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``. The kernels take bfloat16 and float16 maps of up to 256
            pixels; ``"auto"`` leaves others to the reference.

    Returns:
        ``[B, H, W, C]`` in the dtype of ``x``. The reference computes in float32 or wider; the kernels sum in float32
        and round the spectrum, and the cosines and sines, to the dtype of ``x``.

    Raises:
        ValueError: if shapes or dtypes do not fit, or the backend cannot run on these tensors.
    """
    if x.ndim != 4 or 0 in x.shape[1:] or not x.is_floating_point():
        raise ValueError(
            f"x must be floating point [B, H, W, C] with at least one pixel and channel, got {x.dtype} {list(x.shape)}"
        )
    height, width, channels = x.shape[1:]
    shape = [channels, height, width // 2 + 1, 2]
    if list(weight.shape) != shape or not weight.is_floating_point():
        raise ValueError(
            f"weight must be floating point [C, H, W // 2 + 1, 2] = {shape} beside x {list(x.shape)}, "
            f"got {weight.dtype} {list(weight.shape)}"
        )
    if use_triton(backend, x, weight):
        if x.dtype in OPERAND_DTYPES and height * width <= MAX_PIXELS:
            return _run(x, weight)
        if backend == "triton":
            raise ValueError(
                f"backend='triton' cannot run: x must be bfloat16 or float16 maps of up to {MAX_PIXELS} pixels, "
                f"got {x.dtype} of {height} x {width}; use backend='auto'"
            )
    return filter_spectrum_reference(x, weight)


def filter_spectrum_reference(x: Tensor, weight: Tensor) -> Tensor:
    """Define :func:`filter_spectrum` in plain torch: any device, float64 for float64 input."""
    if x.shape[0] == 0:
        # Libraries refuse to transform no maps at all; gradients are to come out as zeros.
        return x * weight.sum().to(x.dtype)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    # Rows and columns last and contiguous: torch 2.11 compiles other orders wrongly. Of the weights, which may be kept
    # channels-last, real and imaginary parts have to be neighbours.
    wide = wide.permute(0, 3, 1, 2).contiguous()
    filters = torch.view_as_complex(weight.to(wide.dtype).contiguous())
    if x.shape[2] == 1:
        # torch 2.11 transforms a single column wrongly on a GPU (seen on an H200).
        y = torch.fft.ifft(torch.fft.fft(wide[..., 0], norm="ortho") * filters[..., 0], norm="ortho").real.unsqueeze(3)
    else:
        y = torch.fft.irfft2(torch.fft.rfft2(wide, norm="ortho") * filters, s=[x.shape[1], x.shape[2]], norm="ortho")
    return y.permute(0, 2, 3, 1).to(x.dtype)


@jit
def _table_kernel(
    table_ptr,  # [2, rows of BLOCK_PIXELS]: cosines and sines of each frequency; zeros where there is none, or no pixel
    TURN: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    FREQUENCIES: tl.constexpr = WIDTH // 2 + 1
    PIXELS: tl.constexpr = HEIGHT * WIDTH
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    frequency, pixel = offsets // BLOCK_PIXELS, offsets % BLOCK_PIXELS
    down = (frequency // FREQUENCIES) * (pixel // WIDTH) % HEIGHT
    right = (frequency % FREQUENCIES) * (pixel % WIDTH) % WIDTH
    # Whole turns go before rounding: what is left is a whole number of the shares into which both sides cut a turn.
    angle = ((down * WIDTH + right * HEIGHT) % PIXELS).to(tl.float32) * (TURN / PIXELS)
    exists = (frequency < HEIGHT * FREQUENCIES) & (pixel < PIXELS)
    scale = tl.where(exists, 1 / tl.sqrt(tl.full((BLOCK,), PIXELS, tl.float32)), 0.0)
    kind = table_ptr.dtype.element_ty
    tl.store(table_ptr + offsets, (tl.cos(angle) * scale).to(kind))
    tl.store(table_ptr + tl.num_programs(0) * BLOCK + offsets, (tl.sin(angle) * scale).to(kind))


@jit
def _place_columns(CHANNELS: tl.constexpr, BLOCK_IMAGES: tl.constexpr, BLOCK_CHANNELS: tl.constexpr):
    """Return the image and channel of each column of a program's maps."""
    # Neighbours in the grid share the memory of pixels.
    blocks: tl.constexpr = (CHANNELS + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    columns = tl.arange(0, BLOCK_IMAGES * BLOCK_CHANNELS)
    images = tl.program_id(0) // blocks * BLOCK_IMAGES + columns // BLOCK_CHANNELS
    return images.to(tl.int64), tl.program_id(0) % blocks * BLOCK_CHANNELS + columns % BLOCK_CHANNELS


@jit
def _load_maps(x_ptr, images, channels, exists, x_stride, PIXELS: tl.constexpr, BLOCK_PIXELS: tl.constexpr):
    """Return the pixels of each column: ``[columns, BLOCK_PIXELS]``."""
    pixels = tl.arange(0, BLOCK_PIXELS)[None, :]
    x_ptr += (images * PIXELS * x_stride + channels)[:, None] + pixels * x_stride
    return tl.load(x_ptr, mask=exists[:, None] & (pixels < PIXELS), other=0.0)


@jit
def _store_maps(y_ptr, y, images, channels, exists, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """Write ``[columns, BLOCK_PIXELS]`` to ``[B, H, W, C]``."""
    pixels = tl.arange(0, y.shape[1])[None, :]
    y_ptr += (images * (PIXELS * CHANNELS) + channels)[:, None] + pixels * CHANNELS
    tl.store(y_ptr, y.to(y_ptr.dtype.element_ty), mask=exists[:, None] & (pixels < PIXELS))


@jit
def _load_waves(table_ptr, first, NUM_ROWS: tl.constexpr, BLOCK_PIXELS: tl.constexpr, CHUNK: tl.constexpr):
    """Return the cosines and sines ``[CHUNK, BLOCK_PIXELS]`` of the frequencies from ``first`` on."""
    table_ptr += (first + tl.arange(0, CHUNK))[:, None] * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)[None, :]
    return tl.load(table_ptr), tl.load(table_ptr + NUM_ROWS * BLOCK_PIXELS)


@jit
def _load_filters(
    weight_ptr,  # [C, Q, 2]
    channels,
    exists,
    frequencies,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Return n k for each column, real and imaginary parts ``[columns, CHUNK]``."""
    FREQUENCIES: tl.constexpr = WIDTH // 2 + 1
    mask = exists[:, None] & (frequencies < HEIGHT * FREQUENCIES)[None, :]
    weight_ptr += (channels[:, None] * (HEIGHT * FREQUENCIES) + frequencies[None, :]) * 2
    counts = _count(frequencies, WIDTH)[None, :]
    real = tl.load(weight_ptr, mask=mask, other=0.0).to(tl.float32) * counts
    imag = tl.load(weight_ptr + 1, mask=mask, other=0.0).to(tl.float32) * counts
    return real, imag


@jit
def _count(frequencies, WIDTH: tl.constexpr):
    """Return n: 1 for frequencies along the width that are their own conjugates, 2 for others."""
    along = frequencies % (WIDTH // 2 + 1)
    return tl.where((along == 0) | (2 * along == WIDTH), 1.0, 2.0)


@jit
def _multiply(a, b, total, WIDEN: tl.constexpr):
    """Add the product of two matrices to a third."""
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@jit
def _transform(x, cos, sin, WIDEN: tl.constexpr):
    """Return the spectrum c, s ``[columns, CHUNK]`` of maps ``[columns, BLOCK_PIXELS]``."""
    nothing = tl.zeros((x.shape[0], cos.shape[0]), tl.float32)
    return _multiply(x, tl.trans(cos), nothing, WIDEN), _multiply(x, tl.trans(sin), nothing, WIDEN)


@jit
def _add_inverse(y, cosines, sines, cos, sin, WIDEN: tl.constexpr):
    """Add what a part of the spectrum, ``[columns, CHUNK]`` each, is in pixels, ``[columns, BLOCK_PIXELS]``."""
    y = _multiply(cosines.to(cos.dtype), cos, y, WIDEN)
    return _multiply(sines.to(sin.dtype), sin, y, WIDEN)


@jit(do_not_specialize=["num_images"])
def _forward_kernel(
    x_ptr,  # [B P, C]
    weight_ptr,  # [C, Q, 2]
    table_ptr,  # [2, NUM_ROWS, BLOCK_PIXELS]
    y_ptr,  # [B P, C]
    num_images,
    x_stride,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    NUM_ROWS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_IMAGES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    WIDEN: tl.constexpr,
):
    images, channels = _place_columns(CHANNELS, BLOCK_IMAGES, BLOCK_CHANNELS)
    exists = (images < num_images) & (channels < CHANNELS)
    x = _load_maps(x_ptr, images, channels, exists, x_stride, HEIGHT * WIDTH, BLOCK_PIXELS)
    y = tl.zeros((BLOCK_IMAGES * BLOCK_CHANNELS, BLOCK_PIXELS), tl.float32)
    for first in range(0, NUM_ROWS, CHUNK):
        cos, sin = _load_waves(table_ptr, first, NUM_ROWS, BLOCK_PIXELS, CHUNK)
        real, imag = _load_filters(weight_ptr, channels, exists, first + tl.arange(0, CHUNK), HEIGHT, WIDTH)
        c, s = _transform(x, cos, sin, WIDEN)
        y = _add_inverse(y, real * c + imag * s, real * s - imag * c, cos, sin, WIDEN)
    _store_maps(y_ptr, y, images, channels, exists, HEIGHT * WIDTH, CHANNELS)


@jit(do_not_specialize=["num_images"])
def _backward_kernel(
    grad_y_ptr,  # [B P, C]
    x_ptr,  # [B P, C]
    weight_ptr,  # [C, Q, 2]
    table_ptr,  # [2, NUM_ROWS, BLOCK_PIXELS]
    grad_x_ptr,  # [B P, C]
    sums_ptr,  # [G, C, Q, 2], of the weight's gradient
    num_images,
    grad_y_stride,
    x_stride,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    NUM_ROWS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_IMAGES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    WIDEN: tl.constexpr,
):
    NUM_FREQUENCIES: tl.constexpr = HEIGHT * (WIDTH // 2 + 1)
    blocks: tl.constexpr = (CHANNELS + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    images, channels = _place_columns(CHANNELS, BLOCK_IMAGES, BLOCK_CHANNELS)
    exists = (images < num_images) & (channels < CHANNELS)
    x = _load_maps(x_ptr, images, channels, exists, x_stride, HEIGHT * WIDTH, BLOCK_PIXELS)
    grad_y = _load_maps(grad_y_ptr, images, channels, exists, grad_y_stride, HEIGHT * WIDTH, BLOCK_PIXELS)
    grad_x = tl.zeros((BLOCK_IMAGES * BLOCK_CHANNELS, BLOCK_PIXELS), tl.float32)
    summed = (tl.program_id(0) % blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS))[:, None]
    sums_ptr += ((tl.program_id(0) // blocks).to(tl.int64) * CHANNELS + summed) * (2 * NUM_FREQUENCIES)
    for first in range(0, NUM_ROWS, CHUNK):
        frequencies = first + tl.arange(0, CHUNK)
        cos, sin = _load_waves(table_ptr, first, NUM_ROWS, BLOCK_PIXELS, CHUNK)
        real, imag = _load_filters(weight_ptr, channels, exists, frequencies, HEIGHT, WIDTH)
        c, s = _transform(x, cos, sin, WIDEN)
        grad_c, grad_s = _transform(grad_y, cos, sin, WIDEN)
        grad_x = _add_inverse(grad_x, real * grad_c - imag * grad_s, real * grad_s + imag * grad_c, cos, sin, WIDEN)
        # Columns that do not exist are zeros.
        counts = _count(frequencies, WIDTH)[None, :]
        grad_real = _sum_images(c * grad_c + s * grad_s, BLOCK_IMAGES, BLOCK_CHANNELS) * counts
        grad_imag = _sum_images(s * grad_c - c * grad_s, BLOCK_IMAGES, BLOCK_CHANNELS) * counts
        mask = (summed < CHANNELS) & (frequencies < NUM_FREQUENCIES)[None, :]
        tl.store(sums_ptr + 2 * frequencies[None, :], grad_real, mask=mask)
        tl.store(sums_ptr + 2 * frequencies[None, :] + 1, grad_imag, mask=mask)
    _store_maps(grad_x_ptr, grad_x, images, channels, exists, HEIGHT * WIDTH, CHANNELS)


@jit
def _sum_images(columns, BLOCK_IMAGES: tl.constexpr, BLOCK_CHANNELS: tl.constexpr):
    """Sum ``[columns, CHUNK]`` over the images: ``[BLOCK_CHANNELS, CHUNK]``."""
    return tl.sum(tl.reshape(columns, (BLOCK_IMAGES, BLOCK_CHANNELS, columns.shape[1])), axis=0)


@functools.lru_cache
def size_of(height: int, width: int) -> dict[str, int]:
    """Choose how the frequencies and pixels of a map are laid out in its table.

    Returns:
        The keyword arguments ``HEIGHT``, ``WIDTH``, ``NUM_ROWS`` (a multiple of the next), ``CHUNK`` and
        ``BLOCK_PIXELS`` (powers of two).
    """
    frequencies = height * (width // 2 + 1)
    chunk = min(max(triton.next_power_of_2(frequencies), LEAST), MAX_CHUNK)
    return {
        "HEIGHT": height,
        "WIDTH": width,
        "NUM_ROWS": ceil_div(frequencies, chunk) * chunk,
        "CHUNK": chunk,
        "BLOCK_PIXELS": max(triton.next_power_of_2(height * width), LEAST),
    }


def _make_table(x: Tensor, size: dict[str, int]) -> Tensor:
    """Return cosines and sines ``[2, NUM_ROWS, BLOCK_PIXELS]`` in the dtype of ``x``."""
    # Made at every call: that costs less than a launch's distance to the next, and a graph holds what it reads.
    table = x.new_empty((2, size["NUM_ROWS"], size["BLOCK_PIXELS"]))
    launcher(_table_kernel)[(size["NUM_ROWS"] * size["BLOCK_PIXELS"] // TABLE_BLOCK,)](
        table,
        TURN=2 * math.pi,
        HEIGHT=size["HEIGHT"],
        WIDTH=size["WIDTH"],
        BLOCK_PIXELS=size["BLOCK_PIXELS"],
        BLOCK=TABLE_BLOCK,
        num_warps=4,
    )
    return table


def _grid(x: Tensor) -> tuple[int, int]:
    """Return the number of groups of images, and of blocks of channels."""
    return ceil_div(x.shape[0], TILE["BLOCK_IMAGES"]), ceil_div(x.shape[3], TILE["BLOCK_CHANNELS"])


def _forward(x: Tensor, weight: Tensor) -> Tensor:
    batch, height, width, channels = x.shape
    y = x.new_empty(x.shape)
    size, (groups, blocks) = size_of(height, width), _grid(x)
    x = as_rows(x)
    with on_device_of(x):
        launcher(_forward_kernel)[(groups * blocks,)](
            x,
            weight.contiguous(),
            _make_table(x, size),
            y,
            batch,
            x.stride(0),
            CHANNELS=channels,
            # The interpreter gets products of bfloat16 wrong.
            WIDEN=interpreting(),
            **size,
            **TILE,
        )
    return y


def _backward(grad_y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``x`` and, in float32, ``weight``."""
    batch, height, width, channels = x.shape
    grad_x = x.new_empty(x.shape)
    size, (groups, blocks) = size_of(height, width), _grid(x)
    sums = x.new_empty((groups, *weight.shape), dtype=torch.float32)
    grad_y, x = as_rows(grad_y), as_rows(x)
    with on_device_of(x):
        launcher(_backward_kernel)[(groups * blocks,)](
            grad_y,
            x,
            weight.contiguous(),
            _make_table(x, size),
            grad_x,
            sums,
            batch,
            grad_y.stride(0),
            x.stride(0),
            CHANNELS=channels,
            WIDEN=interpreting(),
            **size,
            **TILE,
        )
    return grad_x, sums.sum(0)


_filter_spectrum = custom_op("filter_spectrum", _forward, schema="(Tensor x, Tensor weight) -> Tensor")
_filter_spectrum_backward = custom_op(
    "filter_spectrum_backward", _backward, schema="(Tensor grad_y, Tensor x, Tensor weight) -> (Tensor, Tensor)"
)


@_filter_spectrum.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@_filter_spectrum_backward.register_fake
def _(grad_y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape, dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(backward: Callable, ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor]:
    x, weight = ctx.saved_tensors
    grad_x, grad_weight = backward(grad_y, x, weight)
    return grad_x, grad_weight.to(weight.dtype)


_run = two_ways(_filter_spectrum, _forward, _filter_spectrum_backward, _backward, _save, _differentiate)
