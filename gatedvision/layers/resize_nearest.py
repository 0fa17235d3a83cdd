"""Nearest resizing in which the corners of input and output coincide."""

import torch
from torch import Tensor


def resize_nearest_aligned(x: Tensor, height: int, width: int) -> Tensor:
    """Resize maps as TensorFlow's ``resize_nearest_neighbor(align_corners=True)`` does.

    Pixel i of n' is taken from pixel ``round(i * (n - 1) / (n' - 1))``, half rounded up, the ratio in single precision.
    Halving therefore does not take every other pixel: from even ones the choice drifts to odd ones.

    Args:
        x: maps ``[B, C, H, W]``.
        height: rows of the result.
        width: columns of the result.

    Returns:
        ``[B, C, height, width]``.
    """
    if torch.jit.is_tracing():
        # There sizes are tensors; the program is bound to those of the example.
        height, width = int(height), int(width)
    rows, columns = _sources(x.shape[2], height, x), _sources(x.shape[3], width, x)
    return x.index_select(2, rows).index_select(3, columns)


def _sources(size: int, new_size: int, x: Tensor) -> Tensor:
    """Return the pixel of the input behind each of the output, ``[new_size]``."""
    # Open sizes of exported programs are no numbers yet, and torch 2.11 does not compile sym_max of numbers.
    steps = max(new_size - 1, 1) if isinstance(new_size, int) else torch.sym_max(new_size - 1, 1)
    ratio = (size - 1) / steps
    # The product rounds to single precision; adding a half to it must not round again.
    positions = torch.arange(new_size, dtype=torch.float32, device=x.device) * ratio
    return (positions.double() + 0.5).floor().long()
