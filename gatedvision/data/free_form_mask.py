"""Holes for inpainting, drawn anew for each image: a rectangle and strokes of a brush."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

# The side that the published lengths are for, pixels.
_SIDE = 256
_ANGLE, _ANGLE_RANGE = 2 * math.pi / 5, 2 * math.pi / 15
_TRIES = 1000


class FreeFormMask:
    """Draws holes: the union of a rectangle and brush strokes that zigzag through the image (arXiv:1806.03589).

    Lengths are given in pixels of an image whose shorter side is 256, and are scaled to the image at hand. All numbers
    are uniform in their ranges, both ends included, unless said otherwise:

    - Rectangle: height and width are each ``rectangle - 2 k`` with ``k`` from 0 to an eighth of ``rectangle``; a square
      of side ``rectangle`` around it lies anywhere in the image.
    - Strokes: a number from ``strokes``. Each has a width from ``brush`` (the upper end excluded) and a number of
      segments from ``segments``, and starts anywhere. A segment's length is normal with mean and deviation R, clipped
      to [0, 2 R], where R is an eighth of the image's diagonal. Its angle lies within bounds that are drawn for the
      stroke, at most 2 pi / 15 to either side of 2 pi / 5, and is mirrored for every other segment. Ends are clipped
      to the image and have round joints.

    The defaults are the published ones: at 256 x 256 a rectangle covers 19.2 % of the image in the mean (14 to 25 %),
    strokes 15.1 % (5 % of them less than 3.6 %, 5 % more than 28.9 %), both together 30.9 %.

    Random numbers follow torch's generator, which the engine seeds for each sample; so each image has its own hole,
    and a resumed run repeats those of an uninterrupted one.

    Args:
        rectangle: longest side of the rectangle; 0 for none.
        strokes: least and greatest number of strokes; ``(0, 0)`` for none.
        segments: least and greatest number of a stroke's segments.
        brush: least and greatest width of a stroke.
        area: least and greatest share of the image that the hole covers; holes are drawn until one has it. ``None``
            takes the first.

    Raises:
        ValueError: a range is empty or negative, the rectangle does not fit, or there would be neither a rectangle nor
            strokes.
    """

    def __init__(
        self,
        rectangle: int = 128,
        strokes: Sequence[int] = (1, 3),
        segments: Sequence[int] = (4, 11),
        brush: Sequence[float] = (12, 40),
        area: Sequence[float] | None = None,
    ) -> None:
        for name, (low, high), least in (
            ("strokes", strokes, 0),
            ("segments", segments, 1),
            ("brush", brush, 1),
            ("area", area or (0, 1), 0),
        ):
            if not least <= low <= high:
                raise ValueError(f"{name} must be a range of numbers from {least} on, got ({low}, {high})")
        if not 0 <= rectangle <= _SIDE:
            raise ValueError(f"rectangle must be a side of 0 to {_SIDE} pixels, got {rectangle}")
        if rectangle == 0 and strokes[1] == 0:
            raise ValueError("a hole needs a rectangle or strokes, got rectangle=0 and strokes=(0, 0)")
        self.rectangle = rectangle
        self.strokes = tuple(strokes)
        self.segments = tuple(segments)
        self.brush = tuple(brush)
        self.area = None if area is None else tuple(area)

    def __call__(self, height: int, width: int, index: int = 0) -> np.ndarray:
        """Draw a hole.

        Args:
            height: rows of the image.
            width: columns of the image.
            index: place of the image in its data set, on which nothing here depends.

        Returns:
            uint8 ``[height, width]``, 1 in the hole and 0 elsewhere.

        Raises:
            ValueError: no hole of the wanted area came up.
        """
        generator = np.random.default_rng(int(torch.randint(2**31, ())))
        for _ in range(_TRIES):
            mask = Image.new("L", (width, height))
            self._draw_rectangle(mask, generator)
            for _ in range(generator.integers(self.strokes[0], self.strokes[1], endpoint=True)):
                self._draw_stroke(mask, generator)
            hole = np.asarray(mask)
            if self.area is None or self.area[0] <= hole.mean() <= self.area[1]:
                return hole
        raise ValueError(f"none of {_TRIES} holes covered {self.area} of a {width}x{height} image; widen area or brush")

    def _draw_rectangle(self, mask: Image.Image, generator: np.random.Generator) -> None:
        if self.rectangle == 0:
            return
        side = max(round(self.rectangle * _scale(mask)), 1)
        # One number for both ends of a side: the published program does so, and its areas show it.
        trim_y, trim_x = generator.integers(0, side // 8, size=2, endpoint=True).tolist()
        # The published program draws from a range that excludes its upper end.
        top, left = (int(generator.integers(0, max(space - side, 1))) for space in (mask.height, mask.width))
        corners = (left + trim_x, top + trim_y, left + side - trim_x - 1, top + side - trim_y - 1)
        ImageDraw.Draw(mask).rectangle(corners, fill=1)

    def _draw_stroke(self, mask: Image.Image, generator: np.random.Generator) -> None:
        size = np.array([mask.width, mask.height])
        low = _ANGLE - generator.uniform(0, _ANGLE_RANGE)
        high = _ANGLE + generator.uniform(0, _ANGLE_RANGE)
        mean_length = math.hypot(*size) / 8
        points = [generator.integers(0, size)]
        for number in range(generator.integers(self.segments[0], self.segments[1], endpoint=True)):
            angle = generator.uniform(low, high)
            angle = angle if number % 2 else 2 * math.pi - angle
            length = np.clip(generator.normal(mean_length, mean_length // 2), 0, 2 * mean_length)
            step = length * np.array([math.cos(angle), math.sin(angle)])
            points.append(np.clip(points[-1] + step, 0, size).astype(int))
        width = max(int(generator.uniform(self.brush[0], self.brush[1]) * _scale(mask)), 1)
        vertices = [(int(x), int(y)) for x, y in points]
        pen, radius = ImageDraw.Draw(mask), width // 2
        pen.line(vertices, fill=1, width=width)
        for x, y in vertices:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)


def _scale(mask: Image.Image) -> float:
    return min(mask.size) / _SIDE
