"""Products of sixteen-bit matrices with sums and results in float32, on the tensor cores of GPUs."""

import torch
from torch import Tensor

from gatedvision.layers._exporting import is_exporting

# From torch 2.8 on.
HAS_WIDE_RESULTS = hasattr(torch.ops.aten.bmm, "dtype")


def multiplies_narrow(x: Tensor) -> bool:
    """Tell whether matrices like ``x`` can be multiplied as they are by :func:`product`, and not widened before.

    torch has no gradient for it, and none of it on other devices, where an exported program may run.
    """
    is_narrow = x.dtype in (torch.bfloat16, torch.float16)
    return x.is_cuda and is_narrow and HAS_WIDE_RESULTS and not torch.is_grad_enabled() and not is_exporting()


def product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply ``[B, M, K]`` by ``[B, K, N]``; of sixteen-bit matrices the product is in float32."""
    if a.dtype in (torch.bfloat16, torch.float16):
        return torch.bmm(a, b, out_dtype=torch.float32)
    return a @ b
