"""Which windows the network is shown, and which hole pixels each of them fills.

A connected hole (diagonal neighbours count) is filled in a window of its bounding box plus a margin of ``CONTEXT``
times the box's shorter side, at least ``MARGIN`` pixels, cut off at the image's border. Holes close to each other share
a window where that is less work. With ``max_size``, the longest side the network may see, there are three cases:

- the window fits: it is filled at full resolution, with a margin reduced to ``MARGIN`` where that makes it fit;
- it does not, but the hole is nowhere wider than ``max_size / 2`` (a scratch across the photo): full resolution, tile
  after tile, each of which sees what the ones before it filled;
- the hole is wider: its surroundings are reduced until it is as wide as that, filled like the others, and only the hole
  takes the enlarged result. A hole at the image's border counts double, having known pixels on one side only.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

# Beyond about 160 pixels the published network's dilated convolutions see nothing.
MARGIN = 128
CONTEXT = 0.5
# Sides of the network's input; windows grow into the image before anything is padded.
MULTIPLE = 8
# Specks with their corner in one cell of this side, pixels, share a window from the start.
_CELL = 64


class Window(NamedTuple):
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right`` of an image, the ends excluded."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """The window as an index."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.bottom - self.top, self.right - self.left


class Step(NamedTuple):
    """A window to look at, reduced by a factor of at most 1, and the part and the labels of the holes to fill there."""

    window: Window
    part: Window
    labels: np.ndarray
    factor: float


class Plan:
    """All steps for one image.

    Args:
        hole: ``[H, W]``, true where the image is unknown.
        max_size: longest side the network may see, pixels.
        may_reduce: reduce wide holes; otherwise they are filled in tiles, too.
    """

    def __init__(self, hole: np.ndarray, max_size: int, may_reduce: bool = True) -> None:
        import cv2  # not with the package, whose import is to stay cheap

        self.max_size = max_size - max_size % MULTIPLE
        self.margin = min(MARGIN, self.max_size // 4)
        self.may_reduce = may_reduce
        count, labels, stats, _ = cv2.connectedComponentsWithStats(hole.astype(np.uint8), connectivity=8)
        self.num_labels = count
        self.labels: np.ndarray = np.asarray(labels, dtype=np.int32)
        left, top, width, height = stats[1:, :4].T
        boxes = np.stack([top, left, top + height, left + width], axis=1)
        fits = self._fits(boxes)
        groups = [(box, np.flatnonzero(group) + 1) for box, group in self._share(boxes, np.flatnonzero(fits))]
        self.steps = [self._step(box, labels) for box, labels in groups]
        for label in (np.flatnonzero(~fits) + 1).tolist():
            self.steps.extend(self._steps_of_large(Window(*boxes[label - 1].tolist()), label))

    def pixels_to_fill(self, step: Step) -> np.ndarray:
        """Return which pixels of the step's window the step fills.

        Args:
            step: one of ``steps``.

        Returns:
            ``[h, w]``, true where they are.
        """
        chosen: np.ndarray = np.zeros(self.num_labels, dtype=bool)
        chosen[step.labels] = True
        pixels = np.zeros(step.window.size, dtype=bool)
        top, left = step.part.top - step.window.top, step.part.left - step.window.left
        height, width = step.part.size
        pixels[top : top + height, left : left + width] = chosen[self.labels[step.part.slices]]
        return pixels

    def _step(self, part: np.ndarray, labels: np.ndarray, factor: float = 1.0) -> Step:
        [window] = self._windows(part[None], capped=factor == 1)
        return Step(self._grown(window), Window(*part.tolist()), labels, factor)

    def _windows(self, boxes: np.ndarray, capped: bool = True) -> np.ndarray:
        """Boxes ``[n, 4]`` with their margins, which ``capped`` shortens to keep a window within ``max_size``."""
        sides = boxes[:, 2:] - boxes[:, :2]
        margins = np.repeat(np.ceil(CONTEXT * sides.min(axis=1, keepdims=True)).astype(int), 2, axis=1)
        if capped:
            margins = np.minimum(margins, (self.max_size - sides) // 2)
        margins = np.maximum(margins, self.margin)
        low = np.maximum(boxes[:, :2] - margins, 0)
        return np.concatenate([low, np.minimum(boxes[:, 2:] + margins, self.labels.shape)], axis=1)

    def _fits(self, boxes: np.ndarray) -> np.ndarray:
        windows = self._windows(boxes)
        return np.all(windows[:, 2:] - windows[:, :2] <= self.max_size, axis=1)

    def _share(self, boxes: np.ndarray, small: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Group boxes, of which the indices in ``small`` fit: yields each group's box and members."""
        owner = np.full(len(boxes), -1)
        if not len(small):
            return
        # Specks by the thousand: the search for partners below is quadratic.
        side = min(_CELL, self.max_size // 2 - self.margin)
        cells = boxes[small, :2] // side
        tiny = (boxes[small, 2:] - boxes[small, :2] <= side).all(axis=1)
        keys = cells[:, 0] * (self.labels.shape[1] // side + 1) + cells[:, 1]
        keys = np.where(tiny, keys, -1 - np.arange(len(keys)))
        _, owner[small] = np.unique(keys, return_inverse=True)
        unions = np.full((owner.max() + 1, 4), -1)
        unions[:, :2] = np.iinfo(unions.dtype).max
        np.minimum.at(unions[:, :2], owner[small], boxes[small, :2])
        np.maximum.at(unions[:, 2:], owner[small], boxes[small, 2:])
        alive = np.ones(len(unions), dtype=bool)
        for group in range(len(unions)):
            while alive[group] and (partner := self._best_partner(unions, alive, group)) is not None:
                unions[group] = _union(unions[group], unions[partner])
                owner[owner == partner] = group
                alive[partner] = False
        for group in np.flatnonzero(alive):
            yield unions[group], owner == group

    def _best_partner(self, boxes: np.ndarray, alive: np.ndarray, group: int) -> int | None:
        others = np.flatnonzero(alive)
        others = others[others != group]
        if not len(others):
            return None
        joined = _union(boxes[group], boxes[others])
        cost = _area(self._windows(joined))
        saved = _area(self._windows(boxes[others])) + _area(self._windows(boxes[group][None])) - cost
        saved[~self._fits(joined)] = -1
        best = int(saved.argmax())
        return int(others[best]) if saved[best] >= 0 else None

    def _steps_of_large(self, box: Window, label: int) -> Iterator[Step]:
        labels = np.array([label])
        factor = min(self.max_size / 2 / self._width(box, label), 1.0)
        if factor < 1 and self.may_reduce:
            yield self._step(np.array(box), labels, factor)
            return
        core = self.max_size - 2 * self.margin
        for top in range(box.top, box.bottom, core):
            for left in range(box.left, box.right, core):
                inside = self.labels[top : min(top + core, box.bottom), left : min(left + core, box.right)] == label
                if inside.any():
                    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
                    part = np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]) + [top, left, top, left]
                    yield self._step(part, labels)

    def _width(self, box: Window, label: int) -> float:
        """Side of the largest square in a hole, pixels; mirrored at the image's border, where nothing known follows."""
        import cv2

        height, width = self.labels.shape
        around = [(int(box.top > 0), int(box.bottom < height)), (int(box.left > 0), int(box.right < width))]
        padded = np.pad(self.labels[box.slices] == label, around).astype(np.uint8)
        return 2 * float(cv2.distanceTransform(padded, cv2.DIST_C, 3).max())

    def _grown(self, box: np.ndarray) -> Window:
        """The window with sides that are multiples of 8, as far as the image reaches."""
        low, high = [], []
        for first, last, length in zip(box[:2], box[2:], self.labels.shape, strict=True):
            last = min(last + (first - last) % MULTIPLE, length)
            low.append(int(max(first - (first - last) % MULTIPLE, 0)))
            high.append(int(last))
        return Window(*low, *high)


def _union(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.concatenate([np.minimum(a[..., :2], b[..., :2]), np.maximum(a[..., 2:], b[..., 2:])], axis=-1)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
