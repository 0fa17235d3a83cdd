"""Linear resampling of images and volumes, left out where the size is right already."""

import torch.nn.functional as F
from torch import Tensor


def resize_linear(x: Tensor, like: Tensor, align_corners: bool = False) -> Tensor:
    """Resample a map linearly along each of its axes, to the grid of another.

    Args:
        x: ``[B, C, H, W]`` or ``[B, C, D, H, W]``.
        like: a map of the wanted size, of any batch and channels.
        align_corners: let the centres of the corner pixels coincide, which PyTorch did before 0.4; else their corners.

    Returns:
        ``[B, C, *S]`` with the sides of ``like``; ``x`` itself if it has them.
    """
    size = like.shape[2:]
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear" if x.ndim == 4 else "trilinear", align_corners=align_corners)
