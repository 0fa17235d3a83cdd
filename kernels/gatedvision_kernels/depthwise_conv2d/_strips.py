"""How the kernels cut maps: into strips of pixels that a thread keeps in registers.

The floor of a depthwise convolution is one multiply-add per tap and output, and whatever has to be loaded or
converted again comes on top. So the pixels of a strip are variables of their own: a tuple of S tiles ``[L, BLOCK]``,
whose element s holds the s-th pixel of L strips for a block of channels. Shifting a strip by a tap is then a matter of
names, and a program that walks down the rows loads each of them once.

A convolution of dilation D is D * D ones without dilation, each of the map that has every D-th row and column: a
phase. Rows and columns are counted inside a phase, and strips never leave theirs.
"""
# pyright: reportArgumentType=false

from __future__ import annotations

from functools import lru_cache
from typing import Any

from gatedvision_kernels._rows import ceil_div
from gatedvision_kernels._triton import jit, tl

KERNEL_SIZES = (3, 5, 7)
# Sides of the square maps whose strips are made to fit: what images of 224 pixels become, and all that are small.
FITTED_SIDES = (*range(1, 15), 28, 56)
# Registers hold the K - 1 unfinished rows of a strip; longer ones would spill.
LONGEST_STRIP = 8
SHORTEST_STRIP = 4


@lru_cache
def tile_of(kernel_size: int, dilation: int, height: int, width: int, channels: int) -> dict[str, Any]:
    """Choose how to cut maps of ``height`` by ``width`` pixels and ``channels`` channels: constants of the kernels.

    A thread takes two channels: with fewer, twice as many loads fetch the same bytes; with more, each weight is used
    for fewer pixels before its register is needed again.

    Each form of a kernel takes seconds to compile. Some square maps, as classifiers have them, get the one that fits;
    all others share one, or images of many sizes would be compiled for instead of trained on.
    """
    columns = ceil_div(width, dilation)  # of the widest phase
    fitted = height == width and width in FITTED_SIDES
    strip = _fit_strip(kernel_size, columns) if fitted else LONGEST_STRIP
    return {
        "K": kernel_size,
        "D": dilation,
        "S": strip,
        "HALO": kernel_size // 2 if columns > strip else 0,
        "EVEN": fitted and width % (strip * dilation) == 0,
        # Blocks of 32 channels are whole sectors of memory; those of 16 waste less of narrow maps.
        "BLOCK": 16 if 0 < channels % 32 <= 16 else 32,
        "CHANNELS": channels,
    }


def _fit_strip(kernel_size: int, columns: int) -> int:
    """Return S, with which rows of so many pixels take the fewest instructions."""
    if columns <= LONGEST_STRIP:
        return columns
    # Instructions of a row: two channels a thread, one load for a pair of weights, and per pixel the rest.
    cost = {
        s: ceil_div(columns, s) * (kernel_size**2 * (2 * s + 1) + 5 * s + 3 * kernel_size)
        for s in range(LONGEST_STRIP, SHORTEST_STRIP - 1, -1)
    }
    return min(cost, key=lambda s: cost[s])


def lines_of(block: int, num_warps: int) -> int:
    """Return L, so that each thread has two channels of one strip."""
    return 64 * num_warps // block


@jit
def place_strips(first, strips, strips_per_row, L: tl.constexpr, S: tl.constexpr, D: tl.constexpr):
    """Return the image and the first column of L strips, ``[L, 1]`` each, and which of them there are."""
    strip = first + tl.arange(0, L)[:, None]
    image = (strip // (strips_per_row * D)).to(tl.int64)
    column = strip % strips_per_row * (S * D) + strip // strips_per_row % D
    return image, column, strip < strips


@jit
def rows_within(row, first, last, column):
    """Tell for each of the strips at ``column``, ``[L, 1]``, whether ``row`` is one of ``first`` to ``last - 1``."""
    # Compared as a tile, because Triton's interpreter makes integers of truth values that are scalars.
    row += tl.zeros_like(column)
    return (row >= first) & (row < last)


@jit
def _widen(x):
    """Convert to float32."""
    if x.dtype == tl.bfloat16:
        # What a plain conversion does too, but in one instruction less for every pair.
        return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        return x.to(tl.float32)


@jit
def load_strips(
    pointers,  # [L, BLOCK], to the first pixels
    inside,  # [L, BLOCK], what there is of them
    column,  # [L, 1], of the first pixels
    width,
    PIXEL: tl.constexpr,  # elements from a pixel to the next
    HALO: tl.constexpr,
    S: tl.constexpr,
    D: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Return S pixels and HALO more on either side, zero outside the map: a tuple of tiles ``[L, BLOCK]`` float32."""
    pixels = ()
    for i in tl.static_range(S + 2 * HALO):
        if i < HALO:
            # Where all strips are full, three masks serve all pixels: a halo lies inside unless at the border.
            mask = inside & (column >= (S if EVEN else HALO - i) * D)
        elif i >= HALO + S:
            mask = inside & (width - column > (S if EVEN else i - HALO) * D)
        else:
            mask = inside if EVEN else inside & (width - column > (i - HALO) * D)
        pixels = pixels + (_widen(tl.load(pointers + (i - HALO) * D * PIXEL, mask=mask, other=0.0)),)
    return pixels


@jit
def correlate(totals, a, b, OFFSET: tl.constexpr):
    """Add to the i-th of ``totals`` the products of ``b`` with the elements of ``a`` from OFFSET + i on, if there."""
    added = ()
    for i in tl.static_range(len(totals)):
        total = totals[i]
        for j in tl.static_range(len(b)):
            if OFFSET + i + j >= 0 and OFFSET + i + j < len(a):
                total = tl.fma(a[OFFSET + i + j], b[j], total)
        added = added + (total,)
    return added
