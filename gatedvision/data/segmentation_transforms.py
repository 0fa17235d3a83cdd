"""Augmentation of images together with their label maps, by albumentations."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.augmentations.crops.transforms import BaseCrop
from mmengine.registry import TRANSFORMS

# Of the label maps that data sets yield.
_IGNORE_INDEX = 255


class LabelTransforms:
    """A row of albumentations transforms for an image and its label map.

    Random numbers follow torch's generator.

    Args:
        transforms: the transforms, or configs ``dict(type=..., ...)`` of them.
    """

    def __init__(self, transforms: Sequence[Any]) -> None:
        built = [TRANSFORMS.build(dict(item)) if isinstance(item, Mapping) else item for item in transforms]
        # The other nearest neighbour of OpenCV lies up to half a pixel beside where the image goes.
        self.compose = A.Compose(built, mask_interpolation=cv2.INTER_NEAREST_EXACT)

    def __call__(self, image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Transform one image.

        Args:
            image: uint8 ``[H, W, 3]``.
            labels: uint8 ``[H, W]``.

        Returns:
            Both, of one common size.
        """
        # albumentations has generators of its own, which nothing else seeds. All transforms share these two; from a
        # seed, each would make its own, and all of them would draw the same numbers.
        seed = int(torch.randint(2**31, ()))
        self.compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        result = self.compose(image=image, mask=labels)
        return result["image"], result["mask"]


def photometric_distortion() -> Any:
    """Change brightness, contrast, saturation and hue, each of them in half of the images.

    The strengths are those of SSD (arXiv:1512.02325), which the published recipes share: 32 levels of brightness, 0.5
    to 1.5 times the contrast and the saturation, 36 degrees of hue.

    Returns:
        An albumentations transform.
    """
    same = (1.0, 1.0)
    return A.Sequential(
        [
            A.RandomBrightnessContrast(brightness_limit=32 / 255, contrast_limit=0.0, p=0.5),
            A.RandomBrightnessContrast(brightness_limit=0.0, contrast_limit=0.5, p=0.5),
            A.ColorJitter(brightness=same, contrast=same, saturation=(0.5, 1.5), hue=(0.0, 0.0), p=0.5),
            A.ColorJitter(brightness=same, contrast=same, saturation=same, hue=(-0.1, 0.1), p=0.5),
        ],
        p=1.0,
    )


class RandomLabelCrop(BaseCrop):
    """Cuts out a random window in which no class covers nearly everything.

    A window is drawn anew, up to ten times, while one class has more than ``max_share`` of its labelled pixels. Sides
    that are shorter than the window stay whole, to be padded.

    Args:
        height: rows of the window.
        width: columns of the window.
        max_share: largest share of one class, 0 to 1.
        p: share of the images that are cut.
    """

    tries = 10

    def __init__(self, height: int, width: int, max_share: float = 0.75, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.height = height
        self.width = width
        self.max_share = max_share

    @property
    def targets_as_params(self) -> list[str]:
        """What the window depends on."""
        return ["mask"]

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the window.

        Args:
            params: holds the ``shape`` of the image.
            data: holds its ``mask``.

        Returns:
            ``crop_coords``: left, top, right, bottom.
        """
        labels = data["mask"]
        window = self._draw(labels.shape)
        for _ in range(self.tries - 1):
            left, top, right, bottom = window
            counts = np.bincount(labels[top:bottom, left:right].ravel(), minlength=_IGNORE_INDEX + 1)[:_IGNORE_INDEX]
            if np.count_nonzero(counts) > 1 and counts.max() <= self.max_share * counts.sum():
                break
            window = self._draw(labels.shape)
        return {"crop_coords": window}

    def _draw(self, shape: Sequence[int]) -> tuple[int, int, int, int]:
        generator: random.Random = self.py_random
        height, width = min(self.height, shape[0]), min(self.width, shape[1])
        top, left = generator.randint(0, shape[0] - height), generator.randint(0, shape[1] - width)
        return left, top, left + width, top + height
