"""Pictures of label maps over their images."""

import colorsys
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

_LINE = 14
_COLUMN = 150
_GOLDEN = 0.618034


def draw_labels(image: Tensor, label_maps: Sequence[Tensor], classes: Sequence[str]) -> Image.Image:
    """Draw an image, then the same under each label map, side by side, over a legend of the classes in them.

    Args:
        image: bytes ``[3, H, W]``, 0 to 255.
        label_maps: class indices ``[H, W]``; pixels of other values stay uncoloured.
        classes: names of the classes.

    Returns:
        An RGB picture of the image's height and a legend, and of the image's width for each panel.
    """
    pixels = image.permute(1, 2, 0).cpu().numpy()
    colors = np.array([_color(label) for label in range(len(classes))], dtype=np.float32)
    panels = [pixels]
    present: set[int] = set()
    for label_map in label_maps:
        labels = label_map.cpu().numpy()
        known = (labels >= 0) & (labels < len(classes))
        mixed = pixels.astype(np.float32)
        mixed[known] = 0.4 * mixed[known] + 0.6 * colors[labels[known]]
        panels.append(mixed.round().astype(np.uint8))
        present |= set(torch.unique(label_map).tolist())
    drawn = Image.fromarray(np.concatenate(panels, axis=1))
    shown = sorted(label for label in present if 0 <= label < len(classes))
    per_line = max(drawn.width // _COLUMN, 1)
    picture = Image.new("RGB", (drawn.width, drawn.height + _LINE * -(-len(shown) // per_line)), "white")
    picture.paste(drawn)
    pen = ImageDraw.Draw(picture)
    for place, label in enumerate(shown):
        row, column = divmod(place, per_line)
        left, top = column * _COLUMN, drawn.height + row * _LINE
        pen.rectangle((left + 2, top + 2, left + 11, top + 11), fill=_color(label), outline="black")
        pen.text((left + 15, top + 1), classes[label], fill="black")
    return picture


def _color(label: int) -> tuple[int, int, int]:
    """Colours that differ most between neighbouring labels: hues by the golden section, in three brightnesses."""
    red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN % 1.0, 0.9, (1.0, 0.75, 0.5)[label % 3])
    return round(255 * red), round(255 * green), round(255 * blue)
