"""Augmentation of images together with their boxes and masks, by albumentations."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import albumentations as A
import numpy as np
import torch
from albumentations.augmentations.crops.transforms import BaseCrop
from mmengine.registry import TRANSFORMS

# Shortest side of a box to learn from, pixels: rounding may take all of a shorter one.
MIN_SIDE = 0.5


class BoxTransforms:
    """A row of albumentations transforms for an image, its boxes and masks.

    What a transform pushes out of the image is dropped, and so is what it leaves narrower or lower than ``MIN_SIDE``.
    Random numbers follow torch's generator.

    Args:
        transforms: the transforms, or configs ``dict(type=..., ...)`` of them.
    """

    def __init__(self, transforms: Sequence[Any]) -> None:
        built = [TRANSFORMS.build(dict(item)) if isinstance(item, Mapping) else item for item in transforms]
        boxes = A.BboxParams("pascal_voc", label_fields=["places"], clip=True, min_width=MIN_SIDE, min_height=MIN_SIDE)
        self.compose = A.Compose(built, bbox_params=boxes)

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, masks: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
        """Transform one image.

        Args:
            image: uint8 ``[H, W, 3]``.
            boxes: ``[N, 4]`` left, top, right, bottom, inside the image.
            masks: uint8 ``[N, H, W]``, or ``None``.

        Returns:
            The image, the boxes that are left (M of them), their masks, and their places ``[M]`` among the N.
        """
        # albumentations has generators of its own, which nothing else seeds. All transforms share these two; from a
        # seed, each would make its own, and all of them would draw the same numbers.
        seed = int(torch.randint(2**31, ()))
        self.compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        # It takes no empty stack of masks.
        has_masks = masks is not None and len(masks) > 0
        targets: dict[str, Any] = {"image": image, "bboxes": boxes, "places": np.arange(len(boxes))}
        if has_masks:
            targets["masks"] = masks
        result = self.compose(**targets)
        places = np.asarray(result["places"], dtype=np.int64)
        image = np.ascontiguousarray(result["image"])
        if has_masks:
            masks = np.ascontiguousarray(np.asarray(result["masks"])[places])
        elif masks is not None:
            masks = np.zeros((0, *image.shape[:2]), dtype=np.uint8)
        boxes = np.asarray(result["bboxes"], dtype=np.float32).reshape(-1, 4)
        return image, boxes, masks, places


class RandomWindow(BaseCrop):
    """Cuts out a random window, whose sides are drawn for an image of a random short side.

    The detection recipes that followed DETR resize half of the images to a short side of 400, 500 or 600 pixels, cut a
    window of 384 to 600 pixels out of them, and resize that once more. Only the window matters, so here it is cut out
    of the image as it is.

    Args:
        short_sides: short sides to choose from, pixels.
        window_sides: smallest and largest side of the window in the image so resized, pixels.
        p: share of the images that are cut.
    """

    def __init__(
        self,
        short_sides: Sequence[int] = (400, 500, 600),
        window_sides: tuple[int, int] = (384, 600),
        p: float = 0.5,
    ) -> None:
        super().__init__(p=p)
        self.short_sides = tuple(short_sides)
        self.window_sides = tuple(window_sides)

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the window.

        Args:
            params: holds the ``shape`` of the image.
            data: unused.

        Returns:
            ``crop_coords``: left, top, right, bottom.
        """
        generator: random.Random = self.py_random
        height, width = params["shape"][:2]
        scale = min(height, width) / generator.choice(self.short_sides)
        spans = []
        for side in (width, height):
            length = min(side, max(1, round(scale * generator.randint(*self.window_sides))))
            start = generator.randint(0, side - length)
            spans.append((start, start + length))
        (left, right), (top, bottom) = spans
        return {"crop_coords": (left, top, right, bottom)}
