"""Maps as convolutions leave them: ``[B, C, ...]``, channels first or channels last in memory."""

from torch import Tensor


def channels_last(x: Tensor) -> bool:
    """Tell whether the channels of a pixel are neighbours in memory."""
    return x.stride(1) == 1


def new_map(x: Tensor, channels: int) -> Tensor:
    """Return an empty map in the memory order of ``x``, dense whatever the strides of ``x``."""
    if channels_last(x):
        return x.new_empty((len(x), *x.shape[2:], channels)).movedim(-1, 1)
    return x.new_empty((len(x), channels, *x.shape[2:]))
