"""Kernel of the gradients of weight and bias: sums over all pixels, in float32.

A program keeps the K * K sums of its channels while it walks down the rows of L strips. It holds ROWS rows of the
input at once, and multiplies each row of the output's gradient that they had a part in with all of them. All programs
of a block of channels get the same number of steps; what they sum up is added afterwards, always in the same order.
"""
# pyright: reportArgumentType=false

from __future__ import annotations

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
PROGRAMS_PER_PROCESSOR = {3: 4, 5: 3, 7: 2}
ROWS = 2
# Whether they are 1 or multiples of 16 makes no faster kernels, only more to compile.
SIZES = ("height", "width", "strips", "strips_per_row", "steps", "steps_per_program", "steps_per_strip")


@jit(do_not_specialize=SIZES)
def _weight_gradient_kernel(
    x_ptr,  # [B, H, W, C]
    grad_y_ptr,  # [B, H, W, C]
    sums_ptr,  # [P, 1 + K * K, C] float32: gradients of the bias, then of the taps
    height,
    width,
    strips,
    strips_per_row,
    steps,
    steps_per_program,
    steps_per_strip,
    x_image,  # elements from an image to the next, likewise of rows
    x_row,
    grad_image,
    grad_row,
    X_PIXEL: tl.constexpr,
    GRAD_PIXEL: tl.constexpr,
    CHANNELS: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    S: tl.constexpr,
    HALO: tl.constexpr,
    EVEN: tl.constexpr,
    L: tl.constexpr,
    BLOCK: tl.constexpr,
):
    REACH: tl.constexpr = K // 2
    SPAN: tl.constexpr = S + 2 * HALO
    BLOCKS: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
    program = tl.program_id(0) // BLOCKS
    channel = tl.program_id(0) % BLOCKS * BLOCK + tl.arange(0, BLOCK)[None, :]
    sums = ()
    for _ in tl.static_range(K * K):
        sums = sums + (tl.zeros([L, BLOCK], tl.float32),)
    bias_sum = tl.zeros([L, BLOCK], tl.float32)

    begin = program * steps_per_program
    end = tl.minimum(begin + steps_per_program, steps)
    first_walk = begin // steps_per_strip
    for number in range(tl.cdiv(end, steps_per_strip) - first_walk):
        walk = first_walk + number
        phase = walk % D
        rows = (height - phase + D - 1) // D
        image, column, exists = place_strips(walk // D * L, strips, strips_per_row, L, S, D)
        inside = exists & (channel < CHANNELS)
        x_walk = x_ptr + image * x_image + phase.to(tl.int64) * x_row + column.to(tl.int64) * X_PIXEL + channel
        grad_walk = grad_y_ptr + image * grad_image + phase.to(tl.int64) * grad_row
        grad_walk += column.to(tl.int64) * GRAD_PIXEL + channel
        first = tl.maximum(begin - walk * steps_per_strip, 0)
        for step in range(tl.minimum(end - walk * steps_per_strip, steps_per_strip) - first):
            row = (first + step) * ROWS
            x = ()
            for ahead in tl.static_range(ROWS):
                x_row_ptr = x_walk + (row + ahead).to(tl.int64) * D * x_row
                present = inside & rows_within(row + ahead, 0, rows, column)
                x = x + load_strips(x_row_ptr, present, column, width, X_PIXEL, HALO, S, D, EVEN)
            for ahead in tl.static_range(ROWS + K - 1):
                y = row - REACH + ahead
                present = inside & rows_within(y, 0, rows, column)
                grad_row_ptr = grad_walk + y.to(tl.int64) * D * grad_row
                grad_y = load_strips(grad_row_ptr, present, column, width, GRAD_PIXEL, 0, S, D, EVEN)
                for held in tl.static_range(ROWS):
                    # Of the taps, those in this row of the kernel lead from the gradient to the row held.
                    sums = _add_row(sums, x[held * SPAN : held * SPAN + SPAN], grad_y, K - 1 - ahead + held, K, HALO)
                if ahead >= REACH and ahead < REACH + ROWS:
                    for s in tl.static_range(S):
                        bias_sum += grad_y[s]

    sums_ptr += program.to(tl.int64) * ((1 + K * K) * CHANNELS) + channel
    tl.store(sums_ptr, tl.sum(bias_sum, 0)[None, :], mask=channel < CHANNELS)
    for tap in tl.static_range(K * K):
        tl.store(sums_ptr + (1 + tap) * CHANNELS, tl.sum(sums[tap], 0)[None, :], mask=channel < CHANNELS)


@jit
def _add_row(sums, x, grad_y, row_of_taps: tl.constexpr, K: tl.constexpr, HALO: tl.constexpr):
    """Add to the sums of a row of the kernel, if there is such a row, the products of input and gradient."""
    if row_of_taps >= 0 and row_of_taps < K:
        taps = correlate(sums[row_of_taps * K : row_of_taps * K + K], x, grad_y, HALO - K // 2)
        sums = sums[: row_of_taps * K] + taps + sums[row_of_taps * K + K :]
    return sums


def differentiate_weight(grad_y: Tensor, x: Tensor, weight: Tensor, dilation: int) -> tuple[Tensor, Tensor]:
    """Launch the kernel and add up what its programs found.

    Args:
        grad_y: ``[B, H, W, C]`` with adjacent channels.
        x: ``[B, H, W, C]`` with adjacent channels.
        weight: ``[C, 1, K, K]``, of which shape and dtype are taken.
        dilation: pixels between neighbouring taps.

    Returns:
        The gradient of the weight in its shape and dtype, and that of the bias, ``[C]`` float32.
    """
    batch, height, width, channels = x.shape
    kernel_size = weight.shape[3]
    tile = tile_of(kernel_size, dilation, height, width, channels)
    lines = lines_of(tile["BLOCK"], **LAUNCH)
    blocks = ceil_div(channels, tile["BLOCK"])
    strips_per_row = ceil_div(ceil_div(width, dilation), tile["S"])
    strips = batch * dilation * strips_per_row
    steps_per_strip = ceil_div(ceil_div(height, dilation), ROWS)
    steps = ceil_div(strips, lines) * dilation * steps_per_strip
    resident = PROGRAMS_PER_PROCESSOR[kernel_size] * multiprocessors(x.device)
    steps_per_program = max(1, ceil_div(steps, max(1, resident // blocks)))
    programs = ceil_div(steps, steps_per_program)
    sums = x.new_empty((programs, 1 + kernel_size**2, channels), dtype=torch.float32)
    _weight_gradient_kernel[(programs * blocks,)](
        x,
        grad_y,
        sums,
        height,
        width,
        strips,
        strips_per_row,
        steps,
        steps_per_program,
        steps_per_strip,
        x.stride(0),
        x.stride(1),
        grad_y.stride(0),
        grad_y.stride(1),
        X_PIXEL=x.stride(2),
        GRAD_PIXEL=grad_y.stride(2),
        ROWS=ROWS,
        L=lines,
        **tile,
        **LAUNCH,
    )
    # The bias comes first because what is returned must start where its memory does: compilers count on alignment.
    total = sums.sum(0)
    grad_weight = weight.new_empty(weight.shape)
    grad_weight.view(channels, -1).copy_(total[1:].t())
    return grad_weight, total[0]
