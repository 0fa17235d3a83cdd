"""Convolution kernel: output, and with the kernel turned around the gradient of the input.

A program walks down the rows of L strips. Each row that it loads takes part in K rows of the output: K - 1 of them
are carried from row to row as unfinished sums, and with every row one more is finished.
"""
# pyright: reportArgumentType=false

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from gatedvision_kernels._rows import ceil_div, multiprocessors
from gatedvision_kernels._triton import jit, tl
from gatedvision_kernels.depthwise_conv2d._strips import (
    correlate,
    lines_of,
    load_strips,
    place_strips,
    rows_within,
    tile_of,
)

LAUNCH = {"num_warps": 4}
# Programs that the registers of a multiprocessor hold, by side of the kernel.
PROGRAMS_PER_PROCESSOR = {3: 5, 5: 3, 7: 2}
# Whether they are 1 or multiples of 16 makes no faster kernels, only more to compile.
SIZES = ("height", "width", "strips", "strips_per_row", "slabs", "slab_rows")


@jit(do_not_specialize=SIZES)
def _convolve_kernel(
    x_ptr,  # [B, H, W, C]
    weight_ptr,  # [K * K, C rounded up to whole blocks] float32
    bias_ptr,  # [C] or None
    y_ptr,  # [B, H, W, C], contiguous
    height,
    width,
    strips,
    strips_per_row,
    slabs,
    slab_rows,
    stride_image,
    stride_row,
    PIXEL: tl.constexpr,  # elements from a pixel of x to the next
    CHANNELS: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    TURN: tl.constexpr,
    S: tl.constexpr,
    HALO: tl.constexpr,
    EVEN: tl.constexpr,
    L: tl.constexpr,
    BLOCK: tl.constexpr,
):
    REACH: tl.constexpr = K // 2
    BLOCKS: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
    # Neighbours in the grid share the memory of pixels, then rows.
    pid = tl.program_id(0)
    block = pid % BLOCKS
    phase = pid // BLOCKS % D
    slab = pid // (BLOCKS * D) % slabs
    channel = block * BLOCK + tl.arange(0, BLOCK)[None, :]
    image, column, exists = place_strips(pid // (BLOCKS * D) // slabs * L, strips, strips_per_row, L, S, D)
    inside = exists & (channel < CHANNELS)
    x_ptr += image * stride_image + phase.to(tl.int64) * stride_row + column.to(tl.int64) * PIXEL + channel
    y_ptr += ((image * height + phase) * width + column) * CHANNELS + channel
    weight_ptr += channel + tl.zeros_like(column)

    rows = (height - phase + D - 1) // D
    first = slab * slab_rows
    last = tl.minimum(first + slab_rows, rows)
    start = tl.maximum(first - REACH, 0)
    stop = tl.minimum(last + REACH, rows)
    initial = tl.zeros([L, BLOCK], tl.float32)
    if bias_ptr is not None:
        initial += tl.load(bias_ptr + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
    # Sums of the rows from REACH above the next one on, pixel by pixel.
    sums = ()
    for _ in tl.static_range((K - 1) * S):
        sums = sums + (initial,)
    for step in range(stop - start):
        row = start + step
        x = load_strips(x_ptr + row.to(tl.int64) * D * stride_row, inside, column, width, PIXEL, HALO, S, D, EVEN)
        for _ in tl.static_range(S):
            sums = sums + (initial,)
        added = ()
        for ahead in tl.static_range(K):
            taps = ()
            for tap in tl.static_range(K):
                taps = taps + (tl.load(weight_ptr + _tap(ahead, tap, K, TURN) * (BLOCKS * BLOCK)),)
            added = added + correlate(sums[ahead * S : ahead * S + S], x, taps, HALO - REACH)
        _store_row(y_ptr, added[:S], row - REACH, first, last, inside, column, width, CHANNELS, S, D, EVEN)
        sums = added[S:]
    for ahead in tl.static_range(REACH):
        row = stop - REACH + ahead
        values = sums[ahead * S : ahead * S + S]
        _store_row(y_ptr, values, row, first, last, inside, column, width, CHANNELS, S, D, EVEN)


@jit
def _tap(ahead: tl.constexpr, tap: tl.constexpr, K: tl.constexpr, TURN: tl.constexpr):
    """Number the tap with which a row takes part in the output ``ahead - K // 2`` rows further down."""
    number: tl.constexpr = (K - 1 - ahead) * K + tap
    return K * K - 1 - number if TURN else number


@jit
def _store_row(
    y_ptr,  # [L, BLOCK], to the first pixels of row 0
    values,  # S tiles [L, BLOCK]
    row,
    first,
    last,
    inside,  # [L, BLOCK]
    column,  # [L, 1], of the first pixels
    width,
    CHANNELS: tl.constexpr,
    S: tl.constexpr,
    D: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Write a row of strips if it is one of ``first`` to ``last - 1``."""
    owned = inside & rows_within(row, first, last, column)
    y_ptr += row.to(tl.int64) * (D * CHANNELS) * width
    for s in tl.static_range(S):
        mask = owned if EVEN else owned & (width - column > s * D)
        tl.store(y_ptr + s * D * CHANNELS, values[s].to(y_ptr.dtype.element_ty), mask=mask)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, *, turn: bool) -> Tensor:
    """Launch the kernel.

    Args:
        x: ``[B, H, W, C]`` with adjacent channels.
        weight: ``[C, 1, K, K]``.
        bias: ``[C]`` or nothing.
        dilation: pixels between neighbouring taps.
        turn: whether to turn the kernel by 180 degrees, which makes this the gradient of the input.

    Returns:
        ``[B, H, W, C]`` in the dtype of ``x``.
    """
    batch, height, width, channels = x.shape
    kernel_size = weight.shape[3]
    y = x.new_empty(x.shape)
    tile = tile_of(kernel_size, dilation, height, width, channels)
    lines = lines_of(tile["BLOCK"], **LAUNCH)
    blocks = ceil_div(channels, tile["BLOCK"])
    strips_per_row = ceil_div(ceil_div(width, dilation), tile["S"])
    strips = batch * dilation * strips_per_row
    walks = ceil_div(strips, lines) * dilation * blocks
    rows = ceil_div(height, dilation)
    resident = PROGRAMS_PER_PROCESSOR[kernel_size] * multiprocessors(x.device)
    slabs, slab_rows = _cut(walks, rows, kernel_size, resident)
    _convolve_kernel[(walks * slabs,)](
        x,
        _taps(weight, blocks * tile["BLOCK"]),
        None if bias is None else bias.contiguous(),
        y,
        height,
        width,
        strips,
        strips_per_row,
        slabs,
        slab_rows,
        x.stride(0),
        x.stride(1),
        PIXEL=x.stride(2),
        TURN=turn,
        L=lines,
        **tile,
        **LAUNCH,
    )
    return y


def _taps(weight: Tensor, channels: int) -> Tensor:
    """Return the weights tap by tap, ``[K * K, channels]`` float32; behind those of ``weight`` come any numbers."""
    taps = weight.new_empty((weight.shape[2] * weight.shape[3], channels), dtype=torch.float32)
    taps[:, : len(weight)].copy_(weight.flatten(1).t())
    return taps


@lru_cache
def _cut(walks: int, rows: int, kernel_size: int, resident: int) -> tuple[int, int]:
    """Cut each walk over ``rows`` rows, so that all together fill the GPU: into how many slabs, of how many rows.

    A slab needs ``kernel_size - 1`` rows besides its own, and the last programs run while others have finished:
    ``resident`` of them at once.
    """

    def rows_one_after_another(slabs: int) -> int:
        slab_rows = ceil_div(rows, slabs)
        return ceil_div(walks * slabs, resident) * min(slab_rows + kernel_size - 1, rows)

    slab_rows = ceil_div(rows, min(range(1, rows + 1), key=rows_one_after_another))
    return ceil_div(rows, slab_rows), slab_rows
