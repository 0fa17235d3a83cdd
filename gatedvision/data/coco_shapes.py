"""Generated shapes over photographs that scikit-image ships: detection data without a download."""

import math
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from gatedvision.data.coco import CocoDetection

CLASSES = ("circle", "square", "triangle")
_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
_SPLITS = ("train", "val")


class ShapesDetection(CocoDetection):
    """Circles, squares and triangles of random size, place and colour, with exact boxes and masks.

    A later shape covers the earlier ones, whose masks and boxes are what is left to see. The images depend on split,
    place in it and size alone.

    Args:
        split: ``"train"`` or ``"val"``.
        length: number of images.
        size: side of the images, pixels, 32 to 300.
        **options: ``transforms``, ``with_masks`` and ``keep_empty`` of :class:`CocoDetection`.

    Raises:
        ValueError: unknown split, or length or size out of range.
        ModuleNotFoundError: scikit-image is not installed.
    """

    def __init__(self, split: str, length: int = 64, size: int = 128, **options: Any) -> None:
        if split not in _SPLITS:
            raise ValueError(f"split of the shapes must be 'train' or 'val', got {split!r}")
        if length < 1 or not 32 <= size <= 300:
            raise ValueError(f"length must be at least 1 and size 32 to 300, got length={length} and size={size}")
        photographs = _load_photographs()
        images, entries = [], []
        self._images: list[Image.Image] = []
        for index in range(length):
            generator = np.random.default_rng((_SPLITS.index(split), index, size))
            image, objects = _compose(photographs[index % len(photographs)], size, generator)
            self._images.append(image)
            images.append({"id": index, "file_name": f"{index}", "width": size, "height": size})
            entries.extend({"id": len(entries) + n, "image_id": index, **item} for n, item in enumerate(objects, 1))
        categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
        content = {"images": images, "annotations": entries, "categories": categories}
        super().__init__(content, images="", classes=CLASSES, **options)

    def read_pixels(self, index: int) -> Image.Image:
        """Take an image from memory.

        Args:
            index: its place.
        """
        return self._images[index]

    def _check_files(self) -> None:
        """There are none."""


def _load_photographs() -> list[Image.Image]:
    try:
        from skimage import data
    except ModuleNotFoundError as error:
        message = "the photographs come with scikit-image, which is not installed: pip install 'gatedvision[demo]'"
        raise ModuleNotFoundError(message, name=error.name) from error
    return [Image.fromarray(getattr(data, name)()) for name in _PHOTOGRAPHS]


def _compose(
    photograph: Image.Image, size: int, generator: np.random.Generator
) -> tuple[Image.Image, list[dict[str, Any]]]:
    """Draw one to four shapes on a random part of a photograph."""
    left, top = (int(generator.integers(0, side - size + 1)) for side in photograph.size)
    image = photograph.crop((left, top, left + size, top + size))
    # Which shape each pixel shows.
    owners = Image.new("L", image.size)
    labels = generator.integers(0, len(CLASSES), size=generator.integers(1, 5)).tolist()
    for number, label in enumerate(labels, 1):
        radius = float(generator.uniform(size / 12, size / 5))
        center = generator.uniform(radius, size - radius, size=2)
        color = tuple(generator.integers(0, 256, size=3).tolist())
        corners = {"circle": 24, "square": 4, "triangle": 3}[CLASSES[label]]
        angles = generator.uniform(0, 2 * math.pi) + np.arange(corners) * 2 * math.pi / corners
        outline = [(center[0] + radius * math.cos(x), center[1] + radius * math.sin(x)) for x in angles]
        ImageDraw.Draw(image).polygon(outline, fill=color)
        ImageDraw.Draw(owners).polygon(outline, fill=number)
    seen = np.asarray(owners)
    objects = [_describe(seen == number, label) for number, label in enumerate(labels, 1) if (seen == number).any()]
    return image, objects


def _describe(mask: np.ndarray, label: int) -> dict[str, Any]:
    """COCO's entry for a mask."""
    (left, right), (top, bottom) = ((int(x.min()), int(x.max()) + 1) for x in mask.nonzero()[::-1])
    # Lengths of the runs down the columns, the first one of zeros.
    column_major = np.concatenate([[0], mask.T.ravel(), [0]]).astype(np.int8)
    edges = np.flatnonzero(np.diff(column_major))
    counts = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    return {
        "category_id": label + 1,
        "bbox": [left, top, right - left, bottom - top],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(mask.shape), "counts": counts},
    }
