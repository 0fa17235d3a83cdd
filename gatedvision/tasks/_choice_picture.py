"""Which regions of an image a network looks at closely, as lines over the image."""

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

_COARSE_LINE = (255, 255, 255)
_FINE_LINE = (255, 190, 60)


def draw_choice(image: Tensor, coarse: Tensor, region: int, fine: int) -> Image.Image:
    """Draw an image above itself with the chosen tokens: coarse regions darkened, fine ones bright and cut up.

    Args:
        image: bytes ``[3, H, W]`` or ``[1, H, W]``.
        coarse: bools ``[rows, columns]``, for each region from the top left whether it is a single token; regions may
            reach over the image's edge.
        region: side of a region, pixels.
        fine: side of a fine token, pixels.

    Returns:
        An RGB picture of the image's width and twice its height, enlarged by a whole factor where it is small.
    """
    pixels = image.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()
    zoom = max(1, 160 // max(pixels.shape[:2]))
    pixels = pixels.repeat(zoom, axis=0).repeat(zoom, axis=1)
    height, width = pixels.shape[:2]
    region, fine = region * zoom, fine * zoom
    choice = coarse.cpu().numpy()
    is_coarse = choice.repeat(region, axis=0).repeat(region, axis=1)[:height, :width]
    shown = np.where(is_coarse[..., None], (0.45 * pixels).round().astype(np.uint8), pixels)
    picture = Image.fromarray(np.concatenate([pixels, shown]))
    pen = ImageDraw.Draw(picture)
    for row, column in np.ndindex(*choice.shape):
        left, top = column * region, height + row * region
        if choice[row, column]:
            pen.rectangle((left, top, left + region, top + region), outline=_COARSE_LINE)
        else:
            _draw_cells(pen, left, top, region, fine)
    return picture


def _draw_cells(pen: ImageDraw.ImageDraw, left: int, top: int, region: int, fine: int) -> None:
    for offset in range(0, region + 1, fine):
        pen.line((left + offset, top, left + offset, top + region), fill=_FINE_LINE)
        pen.line((left, top + offset, left + region, top + offset), fill=_FINE_LINE)
