"""What attention gates let through, in colours over the image."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

_CAPTION = 26
_GAP = 2
# From nothing over dark red and orange to white, as iron glows.
_GLOW = np.array([(0, 0, 0), (120, 0, 0), (230, 90, 0), (255, 190, 60), (255, 255, 255)], dtype=np.float32)


def draw_attention_grid(rows: Sequence[Sequence[tuple[str, Image.Image]]], side: int = 224) -> Image.Image:
    """Put pictures with captions into a grid.

    Args:
        rows: for each row its captions and pictures.
        side: longest side of a picture in the grid, pixels.

    Returns:
        An RGB picture.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not rows or not all(rows):
        raise ValueError("there are no pictures to put into a grid")
    scaled = [[(caption, _fit(picture, side)) for caption, picture in row] for row in rows]
    columns = max(len(row) for row in scaled)
    width = max(picture.width for row in scaled for _, picture in row)
    heights = [max(picture.height for _, picture in row) + _CAPTION for row in scaled]
    grid = Image.new("RGB", (columns * (width + _GAP), sum(heights) + _GAP * len(heights)), "white")
    pen = ImageDraw.Draw(grid)
    top = 0
    for row, height in zip(scaled, heights, strict=True):
        for place, (caption, picture) in enumerate(row):
            left = place * (width + _GAP)
            pen.multiline_text((left + 2, top + 1), caption, fill="black", font_size=10, spacing=1)
            grid.paste(picture, (left, top + _CAPTION))
        top += height + _GAP
    return grid


def overlay_heat(image: Tensor, heat: Tensor) -> Image.Image:
    """Lay a map over an image, between the map's own least and greatest value.

    Args:
        image: bytes ``[3, H, W]``.
        heat: ``[H, W]``.

    Returns:
        An RGB picture of the image's size: the image in dark grey, glowing where the map is high.
    """
    values = heat.detach().float().cpu()
    spread = (values.amax() - values.amin()).clamp(min=1e-6)
    glow = glowing((values - values.amin()) / spread)
    grey = image.float().mean(0).cpu().numpy()[..., None].repeat(3, axis=2)
    return Image.fromarray((0.45 * grey + 0.55 * glow).round().clip(0, 255).astype(np.uint8))


def glowing(values: Tensor) -> np.ndarray:
    """Return the colours ``[..., 3]`` of values from 0 to 1: dark, red, orange, white; 0 to 255."""
    place = values.float().cpu().numpy() * (len(_GLOW) - 1)
    low = place.astype(np.int64).clip(0, len(_GLOW) - 2)
    share = (place - low)[..., None]
    return (1 - share) * _GLOW[low] + share * _GLOW[low + 1]


def mean_by_region(coefficients: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Sum a gate's coefficients inside of objects, along their borders, and outside.

    The border is what lies within a pixel of where the label changes, on both of its sides.

    Args:
        coefficients: of each gate ``[gates, *sides]``.
        labels: classes ``[*sides]``, 0 for the background.
        ignore_index: label of the pixels that do not count.

    Returns:
        Sums ``[gates, 3]`` and numbers of pixels ``[3]``, of the inside, the border and the outside.
    """
    pool = torch.nn.functional.max_pool2d if labels.ndim == 2 else torch.nn.functional.max_pool3d
    counted = labels != ignore_index
    classes = torch.where(counted, labels, 0).double()[None, None]
    # Where the greatest and the least label around a pixel differ.
    border = (pool(classes, 3, 1, 1) != -pool(-classes, 3, 1, 1))[0, 0] & counted
    objects = (classes[0, 0] > 0) & counted & ~border
    regions = torch.stack([objects, border, counted & ~border & ~objects]).flatten(1).double()
    return coefficients.flatten(1).double() @ regions.T, regions.sum(1)


def _fit(picture: Image.Image, side: int) -> Image.Image:
    factor = side / max(picture.size)
    size = (max(round(picture.width * factor), 1), max(round(picture.height * factor), 1))
    # Small pictures keep their pixels.
    return picture.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BILINEAR)
