"""Sums over the rows of a matrix: the gradients of biases.

Torch sums few columns over many rows at a fraction of the speed of memory.
Shapes: R rows, C columns, P programs that share the rows.
"""
# pyright: reportArgumentType=false

from __future__ import annotations

import torch
from torch import Tensor

from gatedvision_kernels._device import on_device_of
from gatedvision_kernels._operator import launcher
from gatedvision_kernels._rows import as_rows, block_of, ceil_div, num_programs
from gatedvision_kernels._triton import jit, tl


@jit
def _column_sum_kernel(
    x_ptr,  # [R, C]
    sums_ptr,  # [P, C]
    num_rows,
    x_stride,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    columns = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)[None, :]
    sums = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(num_rows, BLOCK_ROWS), tl.num_programs(0)):
        rows = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS).to(tl.int64)[:, None]
        mask = (rows < num_rows) & (columns < WIDTH)
        sums += tl.load(x_ptr + rows * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
    sums = tl.sum(sums, axis=0)[None, :]
    tl.store(sums_ptr + tl.program_id(0) * WIDTH + columns, sums, mask=columns < WIDTH)


def column_sum(x: Tensor) -> Tensor:
    """Sum ``[..., C]`` over all but the last axis, always in the same order; returns ``[C]`` in float32."""
    x = as_rows(x)
    num_rows, width = x.shape
    tile = block_of(width)
    blocks = ceil_div(width, tile["BLOCK_WIDTH"])
    programs = ceil_div(num_programs(x.device, blocks * ceil_div(num_rows, tile["BLOCK_ROWS"])), blocks)
    sums = x.new_empty((programs, width), dtype=torch.float32)
    with on_device_of(x):
        launcher(_column_sum_kernel)[(programs, blocks)](x, sums, num_rows, x.stride(0), WIDTH=width, **tile)
    return sums.sum(0)
