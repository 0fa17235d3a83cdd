"""What inpainting needs beside albumentations' own transforms."""

from typing import Any

import albumentations as A
import cv2
import numpy as np
from albumentations.core.type_definitions import Targets


class EnlargeToCover(A.DualTransform):
    """Enlarges an image that is smaller than a window in height or width until it covers it, and leaves others alone.

    The aspect ratio stays. So a crop that comes after finds enough pixels in images of any size.

    Args:
        height: rows of the window.
        width: columns of the window.
        p: share of the images that are looked at.
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    def __init__(self, height: int, width: int, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.height = height
        self.width = width

    def apply(self, img: np.ndarray, *args: Any, **params: Any) -> np.ndarray:
        """Enlarge the image, with bicubic interpolation.

        Args:
            img: uint8 ``[H, W, 3]``.
            *args: unused.
            **params: unused.
        """
        return self._enlarge(img, cv2.INTER_CUBIC)

    def apply_to_mask(self, mask: np.ndarray, *args: Any, **params: Any) -> np.ndarray:
        """Enlarge what has lines instead of colours, each pixel taking the value of the nearest one.

        Args:
            mask: uint8 ``[H, W]``.
            *args: unused.
            **params: unused.
        """
        return self._enlarge(mask, cv2.INTER_NEAREST_EXACT)

    def _enlarge(self, pixels: np.ndarray, interpolation: int) -> np.ndarray:
        height, width = pixels.shape[:2]
        factor = max(self.height / height, self.width / width)
        if factor <= 1:
            return pixels
        size = (max(round(width * factor), self.width), max(round(height * factor), self.height))
        return cv2.resize(pixels, size, interpolation=interpolation)
