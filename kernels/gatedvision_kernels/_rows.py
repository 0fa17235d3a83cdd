"""Tensors as rows of adjacent elements, and how operators cut them into tiles."""

import functools

import torch
from torch import Tensor

from gatedvision_kernels._triton import triton
from gatedvision_kernels._tuning import setting

# Widths such as 704 are no power of two: narrow blocks leave fewer lanes idle at their end.
MAX_BLOCK_WIDTH = 256


def ceil_div(a: int, b: int) -> int:
    """Divide and round up; Triton's own function takes several microseconds on the host."""
    return -(-a // b)


def as_rows(x: Tensor) -> Tensor:
    """View ``[..., D]`` as ``[R, D]`` with adjacent elements, copying only where strides force it."""
    return adjacent(x.reshape(-1, x.shape[-1]))


def adjacent(x: Tensor) -> Tensor:
    """Return a tensor whose last elements lie side by side, copied only if they do not."""
    return x if x.stride(-1) == 1 else x.contiguous()


@functools.lru_cache
def tile_of(width: int, elements: int) -> dict[str, int]:
    """Choose the launch settings of a kernel that takes whole rows of ``width`` elements, about so many at once.

    A warp holds 1,024 of them, 32 a thread.

    Returns:
        The keyword arguments ``BLOCK_ROWS``, ``BLOCK_WIDTH`` (powers of two) and ``num_warps``.
    """
    block_width = triton.next_power_of_2(width)
    block_rows = max(1, elements // block_width)
    num_warps = min(16, max(4, block_rows * block_width // 1024))
    return {"BLOCK_ROWS": block_rows, "BLOCK_WIDTH": block_width, "num_warps": num_warps}


@functools.lru_cache
def block_of(width: int) -> dict[str, int]:
    """Choose the launch settings of an elementwise kernel that cuts rows of ``width`` elements into blocks.

    Returns:
        The keyword arguments ``BLOCK_ROWS``, ``BLOCK_WIDTH`` (powers of two) and ``num_warps``; 16 elements a thread.
    """
    block_width = min(triton.next_power_of_2(width), MAX_BLOCK_WIDTH)
    return {"BLOCK_ROWS": 2048 // block_width, "BLOCK_WIDTH": block_width, "num_warps": 4}


def num_programs(device: torch.device, num_blocks: int) -> int:
    """Count the programs that share ``num_blocks`` blocks of rows and sum over them.

    They are enough to hide the latency of memory, and few enough to keep partial sums small.

    None for no rows: Triton launches nothing on an empty grid, and a sum over no programs is zero.
    """
    return min(num_blocks, setting("row_programs") * multiprocessors(device))


@functools.lru_cache
def multiprocessors(device: torch.device) -> int:
    """Count the multiprocessors of a GPU."""
    # On the CPU, where the interpreter runs programs one by one, a single one is as good as many.
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
