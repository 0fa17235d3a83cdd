"""Seamless cloning: what is painted into a hole meets its border (Pérez et al. 2003, "Poisson image editing").

The painted hole keeps its gradients and takes the border's colours: what it is off by there is continued into the hole
as smoothly as possible, and added.

Shapes: B images of C channels and H x W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gatedvision.layers._autocast import without_autocast

# Halvings of the image, and sweeps over each level; over the coarsest, which starts at the mean, more. In the middle of
# a hole little is missing from the exact solution; at an image's corner, a quarter of it unknown, an eighth of the
# range is.
LEVELS = 5
SWEEPS = 4
COARSEST_SWEEPS = 16


def membrane(values: Tensor, known: Tensor) -> Tensor:
    """Continue known values smoothly: about Laplace's equation, on a pyramid, from the coarsest level to the finest.

    Differentiable in the values; memory and time are linear in the pixels.

    Args:
        values: ``[B, C, H, W]``; those that are not known do not matter, but must be finite.
        known: ``[B, 1, H, W]`` bool.

    Returns:
        ``[B, C, H, W]`` in the dtype of ``values``, at least float32: the known ones as they are. Where an image knows
        nothing, 0.
    """
    with without_autocast(values):
        return _continue(values.to(torch.promote_types(values.dtype, torch.float32)), known, LEVELS)


def clone_seamlessly(image: Tensor, hole: Tensor, painted: Tensor) -> Tensor:
    """Put a painted hole into an image so that there is no step at its border.

    Args:
        image: ``[B, C, H, W]``.
        hole: ``[B, 1, H, W]`` bool, where the image is unknown.
        painted: ``[B, C, H, W]``, of the whole image: what it is off by outside of the hole is what its border takes.

    Returns:
        ``[B, C, H, W]`` in the dtype of ``image``; known pixels are those of the image, and the others may leave its
        range a little.
    """
    offset = membrane(image - painted, ~hole)
    return torch.where(hole, (painted + offset).to(image.dtype), image)


def _continue(values: Tensor, known: Tensor, levels: int) -> Tensor:
    share = known.to(values.dtype)
    if levels == 0:
        total = (values * share).sum((2, 3), keepdim=True)
        start = total / share.sum((2, 3), keepdim=True).clamp(min=1)
        return _relax(torch.where(known, values, start), values, known, COARSEST_SWEEPS)
    # What is known of a cell is the mean of its known pixels.
    coarse_share = _halve(share)
    coarse = _halve(values * share) / coarse_share.clamp(min=1e-6)
    coarse = _continue(coarse, coarse_share > 0, levels - 1)
    start = F.interpolate(coarse, size=values.shape[2:], mode="bilinear", align_corners=False)
    return _relax(torch.where(known, values, start), values, known, SWEEPS)


def _halve(x: Tensor) -> Tensor:
    """Average 2 x 2 pixels; beside odd sizes there are zeros.

    ``ceil_mode`` would leave them out. But torch 2.11 binds a program that it exports to sizes as odd as the example's.
    """
    height, width = x.shape[2:]
    return F.avg_pool2d(F.pad(x, [0, width % 2, 0, height % 2]), 2)


def _relax(x: Tensor, values: Tensor, known: Tensor, sweeps: int) -> Tensor:
    """Replace what is not known by the mean around it, again and again."""
    for _ in range(sweeps):
        x = torch.where(known, values, F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))
    return x
