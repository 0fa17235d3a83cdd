"""Batches of what a data set gave."""

from collections.abc import Sequence

import torch
from torch import Tensor


def stack_tensors(tensors: Tensor | Sequence[Tensor], what: str) -> Tensor:
    """Make one batch of what a data set gave.

    Raises:
        ValueError: the tensors differ in shape.
    """
    if isinstance(tensors, Tensor):
        return tensors
    shapes = sorted({tuple(tensor.shape) for tensor in tensors})
    if len(shapes) > 1:
        raise ValueError(f"{what} of one batch differ in shape: {shapes}; end the transforms with a crop and padding")
    return torch.stack(list(tensors))
