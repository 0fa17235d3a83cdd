"""The shapes of :mod:`gatedvision.data.coco_shapes` as label maps: segmentation data without a download."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from gatedvision.data.coco_shapes import CLASSES, ShapesDetection
from gatedvision.data.segmentation import make_sample
from gatedvision.data.segmentation_transforms import LabelTransforms


class ShapesSegmentation(Dataset[dict[str, Any]]):
    """Circles, squares and triangles over photographs, and the background as a class of its own.

    A sample is like one of :class:`SegmentationFolder`.

    Args:
        split: ``"train"`` or ``"val"``.
        length: number of images.
        size: side of the images, pixels, 32 to 300.
        transforms: albumentations transforms, or configs of them, as for :class:`SegmentationFolder`.

    Raises:
        ValueError: unknown split, or length or size out of range.
        ModuleNotFoundError: scikit-image is not installed.
    """

    def __init__(self, split: str, length: int = 64, size: int = 128, transforms: Sequence[Any] = ()) -> None:
        self.split = split
        self.shapes = ShapesDetection(split, length, size, with_masks=True)
        self.transforms = LabelTransforms(transforms) if transforms else None
        self.metainfo = {"classes": ["background", *CLASSES]}

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        target = self.shapes[index]["target"]
        image = np.asarray(self.shapes.read_pixels(index))
        labels = np.zeros(image.shape[:2], dtype=np.uint8)
        # What is left to see of one shape does not overlap with another.
        for mask, label in zip(target["masks"].numpy(), target["labels"].tolist(), strict=True):
            labels[mask > 0] = label + 1
        return make_sample(image, labels, f"{self.split}_{index:05d}", self.transforms)
