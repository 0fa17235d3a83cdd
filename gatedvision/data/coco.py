"""Images with boxes and masks, in COCO's layout: a JSON file and a folder of images."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from PIL import Image
from torch.utils.data import Dataset

from gatedvision.data._files import expand_path
from gatedvision.data.coco_annotations import CocoAnnotations, CocoImage, CocoObject, clip_box
from gatedvision.data.coco_masks import decode_masks
from gatedvision.data.coco_transforms import MIN_SIDE, BoxTransforms
from gatedvision.data.image_reader import UnreadableImageError, read_image

_ORIENTATION_TAG = 0x0112
# What takes an upright image back to the way its pixels are stored, for orientations that swap the sides.
_UNDO_ORIENTATION = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


class CocoDetection(Dataset[dict[str, Any]]):
    """Photographs with the objects in them, for detection and instance segmentation.

    A sample is ``dict(inputs=..., target=...)``: the image as bytes ``[3, H, W]``, of the size it has after the
    transforms, and a dictionary of ``image_id``, ``boxes`` ``[N, 4]`` (left, top, right, bottom, pixels), ``labels``
    ``[N]`` (from 0) and, with masks, ``masks`` ``[N, H, W]`` (uint8). Crowds and boxes of less than half a pixel are no
    targets: the published recipes train as if they were background. Without transforms there are also ``objects``, a
    list of ``CocoObject``: all that is annotated, crowds too, which is what ``CocoMetrics`` compares with.

    Args:
        annotations: the JSON file, or its content.
        images: folder that the file names start from. ``$NAME`` and ``~`` are expanded in both paths;
            ``$GATEDVISION_DATA`` is ``data`` when unset.
        classes: names of categories in the order of the labels; ``None`` takes all, sorted by id.
        drop_other_classes: leave out objects of categories that ``classes`` does not name; else they are an error.
        transforms: albumentations transforms for image, boxes and masks, or configs of them; see ``BoxTransforms``.
        with_masks: draw the masks of the objects, which costs time.
        keep_empty: keep images without objects. Training recipes for COCO leave them out; evaluation needs them.

    Raises:
        FileNotFoundError: the annotations, or images that they name, are missing.
        ValueError: the annotations do not fit together; see :class:`CocoAnnotations`.
    """

    def __init__(
        self,
        annotations: str | Path | Mapping[str, Any],
        images: str | Path,
        classes: Sequence[str] | None = None,
        drop_other_classes: bool = False,
        transforms: Sequence[Any] = (),
        with_masks: bool = False,
        keep_empty: bool = True,
    ) -> None:
        source = annotations if isinstance(annotations, Mapping) else expand_path(annotations)
        self.annotations = CocoAnnotations(source, classes, drop_other_classes)
        self.folder = expand_path(images)
        self._check_files()
        self.transforms = BoxTransforms(transforms) if transforms else None
        self.with_masks = with_masks
        everything = range(len(self.annotations.images))
        self.indices = [index for index in everything if keep_empty or self._has_target(index)]
        self.metainfo = {"classes": self.annotations.classes}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = self.indices[index]
        image = self.annotations.images[index]
        pixels = np.asarray(self.read_pixels(index))
        annotated = self.annotations.objects(index)
        objects = [item for item in annotated if _is_target(item, image)]
        boxes = np.asarray([clip_box(item.bbox, image) for item in objects], dtype=np.float32).reshape(-1, 4)
        labels = np.asarray([item.label for item in objects], dtype=np.int64)
        masks = None
        if self.with_masks:
            masks = decode_masks([item.segmentation for item in objects], image, self.annotations.name)
        if self.transforms is not None:
            pixels, boxes, masks, places = self.transforms(pixels, boxes, masks)
            labels = labels[places]
        target: dict[str, Any] = {
            "image_id": image.id,
            "boxes": torch.from_numpy(boxes),
            "labels": torch.from_numpy(labels),
        }
        if self.transforms is None:
            target["objects"] = annotated
        if masks is not None:
            target["masks"] = torch.from_numpy(masks)
        # Pillow's pixels are read-only, and torch wants to own what it writes to.
        return {"inputs": torch.tensor(pixels).permute(2, 0, 1).contiguous(), "target": target}

    def read_pixels(self, index: int) -> Image.Image:
        """Read an image, oriented as its annotations are.

        Args:
            index: place of the image in the annotations.

        Returns:
            RGB image.

        Raises:
            UnreadableImageError: it is missing or damaged.
            ValueError: it is not of the size that the annotations give.
        """
        record = self.annotations.images[index]
        path = self.folder / record.file_name
        try:
            image = read_image(path)
        except UnreadableImageError as error:
            raise UnreadableImageError(f"{error} (image {record.id} of {self.annotations.name})") from error
        expected = (record.width, record.height)
        if image.size != expected and image.size[::-1] == expected:
            image = _as_stored(image, path)
        if image.size != expected:
            raise ValueError(
                f"image '{path}' is of {image.width}x{image.height} pixels, "
                f"image {record.id} of {self.annotations.name} of {record.width}x{record.height}"
            )
        return image

    def _has_target(self, index: int) -> bool:
        return any(_is_target(item, self.annotations.images[index]) for item in self.annotations.objects(index))

    def _check_files(self) -> None:
        """Look for all files at once; to open each would take minutes.

        Raises:
            FileNotFoundError: some are missing.
        """
        folders: dict[Path, set[str]] = {}
        missing: list[CocoImage] = []
        for image in self.annotations.images:
            path = self.folder / image.file_name
            if path.parent not in folders:
                folders[path.parent] = {file.name for file in path.parent.iterdir()} if path.parent.is_dir() else set()
            if path.name not in folders[path.parent]:
                missing.append(image)
        if missing:
            raise FileNotFoundError(
                f"{self.annotations.name} names {len(missing)} images that '{self.folder}' does not have, "
                f"the first is image {missing[0].id}, '{missing[0].file_name}'; set GATEDVISION_DATA, or images"
            )


def collate_detections(samples: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Put detection samples into one batch; their images may differ in size.

    Args:
        samples: dictionaries with ``inputs`` and ``target``.

    Returns:
        ``inputs``, a list of images ``[3, H_i, W_i]``, and ``targets``, a list of dictionaries.
    """
    return {"inputs": [sample["inputs"] for sample in samples], "targets": [sample["target"] for sample in samples]}


def _is_target(item: CocoObject, image: CocoImage) -> bool:
    left, top, right, bottom = clip_box(item.bbox, image)
    return not item.is_crowd and right - left >= MIN_SIDE and bottom - top >= MIN_SIDE


def _as_stored(image: Image.Image, path: Path) -> Image.Image:
    """Undo the EXIF orientation of an image that was annotated without it."""
    with Image.open(path) as stored:
        orientation = stored.getexif().get(_ORIENTATION_TAG)
    if orientation not in _UNDO_ORIENTATION:
        return image
    print_log(f"'{path}' was annotated without its EXIF orientation, and is read without", "current", logging.WARNING)
    return image.transpose(_UNDO_ORIENTATION[orientation])
