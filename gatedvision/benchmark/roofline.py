"""The least time that a device needs for given work: its floor.

The floor is the largest of three times, since memory, matrix products and depthwise convolutions can overlap: bytes
at the rate of a copy, products at the rate of a large one, and depthwise convolutions, which tensor cores do not
compute, at the rate of float32 multiply-adds.
"""

from typing import NamedTuple

import torch

from gatedvision.benchmark.timing import time_call

# NVIDIA's data sheets give the H100 and H200 (SXM) 67 TFLOP/s of float32, which are 33.5 multiply-adds a picosecond.
DEPTHWISE_RATE = 33.5
# Bytes of the tensor that is copied, beyond any cache, and the side of the matrices that are multiplied.
COPIED_BYTES = {"cuda": 2**30, "cpu": 2**26}
PRODUCT_SIDE = {"cuda": 8192, "cpu": 512}


class Peaks(NamedTuple):
    """What a device reaches.

    Args:
        memory: bytes read or written, TB/s.
        products: multiply-adds of matrix products, 1e12 a second.
        depthwise: multiply-adds of depthwise convolutions, 1e12 a second.
    """

    memory: float
    products: float
    depthwise: float = DEPTHWISE_RATE


class Work(NamedTuple):
    """What has to be done.

    Args:
        memory: bytes to read and to write.
        products: multiply-adds of matrix products.
        depthwise: multiply-adds of depthwise convolutions.
    """

    memory: int
    products: int
    depthwise: int


def measure_peaks(device: torch.device, dtype: torch.dtype, depthwise: float = DEPTHWISE_RATE) -> Peaks:
    """Time a copy and a square matrix product.

    Args:
        device: what is measured.
        dtype: of copy and product.
        depthwise: 1e12 float32 multiply-adds a second, which are not measured.
    """
    source = torch.randn(COPIED_BYTES[device.type] // dtype.itemsize, device=device, dtype=dtype)
    target = torch.empty_like(source)
    copy = time_call(lambda: target.copy_(source), device, seconds=0.2).median
    side = PRODUCT_SIDE[device.type]
    first, second = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = time_call(lambda: first @ second, device, seconds=0.2).median
    return Peaks(2 * COPIED_BYTES[device.type] / copy / 1e9, side**3 / product / 1e9, depthwise)


def find_floor(work: Work, peaks: Peaks) -> tuple[float, str]:
    """Return the least time, ms, and what takes it: ``"memory"``, ``"products"`` or ``"depthwise"``."""
    times = {part: amount / rate / 1e9 for part, amount, rate in zip(Work._fields, work, peaks, strict=True)}
    bound = max(times, key=times.__getitem__)
    return times[bound], bound
