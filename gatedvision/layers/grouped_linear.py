"""Linear layers on runs of rows whose lengths are values, not shapes."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gatedvision_kernels._linear import apply_transposed_linear

# Public since torch 2.10.
_grouped_mm: Any = getattr(F, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)


def grouped_linear(x: Tensor, weight: Tensor, bias: Tensor, ends: Tensor) -> Tensor:
    """Map each run of rows by a linear layer of its own.

    In bfloat16, on GPUs whose grouped product torch has, nothing waits for the lengths; elsewhere they are copied to
    the host, and runs computed one after the other.

    Args:
        x: ``[R, in]``, the runs one behind the other.
        weight: ``[E, in, out]``, one for each run.
        bias: ``[E, out]``.
        ends: ``[E]`` int32, the row behind each run; the last is R.

    Returns:
        ``[R, out]``.
    """
    if x.is_meta:
        # There are no lengths; of any, this has the shape and the work.
        return torch.addmm(bias[0], x, weight[0])
    if _takes_grouped_mm(x, weight):
        return linear_in_one_call(x, weight, bias, ends)
    return linear_by_run(x, weight, bias, ends)


def linear_in_one_call(x: Tensor, weight: Tensor, bias: Tensor, ends: Tensor) -> Tensor:
    """Compute :func:`grouped_linear` by torch's grouped product, in the dtype of ``x``."""
    # Autocast does not know it, and it takes no bias.
    product = _grouped_mm(x, weight.to(x.dtype), offs=ends)
    runs = torch.searchsorted(ends, torch.arange(len(x), device=x.device, dtype=ends.dtype), right=True)
    # As a product: gathering biases, every row would add to the gradient of the same few, one by one.
    return torch.addmm(product, F.one_hot(runs, len(ends)).to(x.dtype), bias.to(x.dtype))


def linear_by_run(x: Tensor, weight: Tensor, bias: Tensor, ends: Tensor) -> Tensor:
    """Compute :func:`grouped_linear` run by run, in any floating dtype and on any device."""
    lengths = ends.diff(prepend=ends.new_zeros(1)).tolist()
    runs = zip(x.split(lengths), weight, bias, strict=True)
    return torch.cat([apply_transposed_linear(*run) for run in runs])


def _takes_grouped_mm(x: Tensor, weight: Tensor) -> bool:
    if _grouped_mm is None or not x.is_cuda or x.dtype != torch.bfloat16 or not len(x):
        return False
    # Rows have to be multiples of 16 bytes; before Hopper, torch would go run by run as well.
    aligned = all(width % 8 == 0 for width in weight.shape[1:])
    return aligned and torch.cuda.get_device_capability(x.device)[0] >= 9
