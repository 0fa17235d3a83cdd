"""In which type kernels multiply matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from gatedvision_kernels._dispatch import interpreting
from gatedvision_kernels._triton import tl


def operand_of(x: Tensor) -> tl.dtype:
    """Return the type of a tensor's numbers in products, which are summed in float32."""
    # The interpreter's products of sixteen bits are garbage.
    if interpreting() or x.dtype == torch.float32:
        return tl.float32
    return tl.bfloat16 if x.dtype == torch.bfloat16 else tl.float16
