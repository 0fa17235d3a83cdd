"""Which experts see what, as tables and as patches that turn red."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from gatedvision.tasks._attention_picture import glowing

# More names than this do not fit beside their rows.
_NAMES = 40
_LETTERS = 16
_LETTER_WIDTH = 6
_DROPPED = (160.0, 20.0, 20.0)


def draw_shares(shares: Tensor, classes: Sequence[str]) -> Image.Image:
    """Draw a table whose cells glow by their share of the greatest one.

    Args:
        shares: ``[classes, experts]``, at least 0.
        classes: names, written before their rows if they are few.

    Returns:
        An RGB picture: classes downwards, experts to the right.
    """
    rows, columns = shares.shape
    height, width = max(2, min(20, 640 // rows)), max(6, min(24, 320 // columns))
    colours = glowing(shares / shares.amax().clamp(min=1e-6))
    table = Image.fromarray(colours.round().astype(np.uint8).repeat(height, axis=0).repeat(width, axis=1))
    if rows > _NAMES:
        return table
    left = _LETTER_WIDTH * max(len(name[:_LETTERS]) for name in classes) + 6
    picture = Image.new("RGB", (left + table.width, table.height), "white")
    picture.paste(table, (left, 0))
    pen = ImageDraw.Draw(picture)
    for row, name in enumerate(classes):
        pen.text((2, row * height + height // 2), name[:_LETTERS], fill="black", anchor="lm", font_size=10)
    return picture


def redden_dropped(image: Tensor, kept: Tensor, patch_size: tuple[int, int]) -> Image.Image:
    """Draw an image whose patches turn red by their share that is not kept.

    Args:
        image: bytes ``[3, H, W]`` or ``[1, H, W]``.
        kept: ``[rows, columns]`` of patches from the top left, 0 to 1; what is over at the right and at the bottom
            belongs to none and is white.
        patch_size: height and width of a patch, pixels.

    Returns:
        An RGB picture of the image's size, enlarged by a whole factor where it is small.
    """
    shares = kept.repeat_interleave(patch_size[0], 0).repeat_interleave(patch_size[1], 1).unsqueeze(2)
    pixels = image.expand(3, -1, -1).permute(1, 2, 0)
    shown = torch.full_like(pixels, 255)
    height, width, _ = shares.shape
    inside = pixels[:height, :width].float()
    dropped = 0.4 * inside.mean(2, keepdim=True) + 0.6 * torch.tensor(_DROPPED)
    shown[:height, :width] = (shares * inside + (1 - shares) * dropped).round().byte()
    zoom = max(1, 160 // max(shown.shape[:2]))
    return Image.fromarray(shown.numpy().repeat(zoom, axis=0).repeat(zoom, axis=1))
