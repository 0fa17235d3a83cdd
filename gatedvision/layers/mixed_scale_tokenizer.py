"""Images as tokens of two scales that share one embedding of patches and one table of positions (arXiv:2307.02321).

A region is shrunk linearly to the size of a fine patch, and embedded as one.
"""

from collections.abc import Sequence
from typing import Optional

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function, resample_abs_pos_embed
from torch import Tensor


@register_notrace_function
def pad_to_regions(x: Tensor, side: int) -> tuple[Tensor, tuple[int, int]]:
    """Pad images at the right and at the bottom to whole regions, and return the rows and columns of these, too."""
    height, width = -x.shape[2] % side, -x.shape[3] % side
    if height or width:
        x = F.pad(x, (0, width, 0, height))
    return x, (x.shape[2] // side, x.shape[3] // side)


@register_notrace_function
def shrink(x: Tensor, ratio: int) -> Tensor:
    """Shrink images linearly, by which each region does on its own: what is read lies inside of it.

    Linear interpolation takes of ``ratio`` by ``ratio`` pixels the one in the middle, or the mean of the four there.
    """
    middle = (ratio - 1) // 2
    if ratio % 2:
        return x[:, :, middle::ratio, middle::ratio]
    return F.avg_pool2d(x[:, :, middle:, middle:], 2, stride=ratio)


@register_notrace_function
def lost_detail(x: Tensor, ratio: int, side: int) -> Tensor:
    """Tell how much detail regions of so many pixels lose when images ``[B, C, H, W]`` of whole regions are shrunk.

    That is the variance of pixels about the mean of their square of ``ratio`` by ``ratio``: its logarithm, halved and
    moved so that it is about 0 for photographs in timm's normalisation.

    Returns:
        ``[B, R]``, float32 or wider, -2.6 where nothing is lost.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    kept = F.avg_pool2d(F.avg_pool2d(wide, ratio).square(), side // ratio)
    lost = (F.avg_pool2d(wide.square(), side) - kept).mean(1).flatten(1)
    return torch.log(lost.clamp(min=0) + 1e-4) / 2 + 2


@register_notrace_function
def cells_of(x: Tensor, patch_size: int) -> tuple[int, int]:
    """Return the rows and columns of patches that images have, begun ones included."""
    return -(-x.shape[2] // patch_size), -(-x.shape[3] // patch_size)


@register_notrace_function
def join_tokens(
    coarse: Tensor,
    fine: Tensor,
    prefix: Sequence[Tensor],
    positions: Optional[Tensor],
    old_grid: tuple[int, int],
    grid: tuple[int, int],
    ratio: int,
    prefix_has_positions: bool,
) -> Tensor:
    """Add positions, and join prefix, coarse and fine tokens.

    The position of a coarse token is interpolated linearly between those of the fine ones.

    Args:
        coarse: ``[B, R, C]``.
        fine: ``[B, R * ratio², C]``.
        prefix: parameters ``[1, p, C]``.
        positions: table for ``old_grid``, or ``None``.
        old_grid: rows and columns of fine patches in the table.
        grid: rows and columns of regions in the image.
        ratio: sides of a fine patch in that of a region.
        prefix_has_positions: the table begins with positions of the prefix.

    Returns:
        ``[B, T, C]``.
    """
    first = torch.cat(list(prefix), dim=1) if prefix else None
    if positions is not None:
        split = first.shape[1] if first is not None and prefix_has_positions else 0
        size = [grid[0] * ratio, grid[1] * ratio]
        table = resample_abs_pos_embed(positions[:, split:], size, list(old_grid), num_prefix_tokens=0)
        wide = table.to(torch.promote_types(table.dtype, torch.float32)).transpose(1, 2).unflatten(2, size)
        between = shrink(wide, ratio).flatten(2).transpose(1, 2)
        coarse, fine = coarse + between.to(table.dtype), fine + table
        if first is not None and split:
            first = first + positions[:, :split]
    tokens = [coarse, fine]
    if first is not None:
        tokens = [first.to(fine.dtype).expand(fine.shape[0], -1, -1), *tokens]
    return torch.cat(tokens, dim=1)
