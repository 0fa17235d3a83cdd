"""Images with label maps: two folders of files with matching names, such as ADE20K, Cityscapes and CamVid."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, default_collate

from gatedvision.data._files import IMAGE_SUFFIXES, expand_path, images_in
from gatedvision.data.image_reader import UnreadableImageError, read_image
from gatedvision.data.segmentation_transforms import LabelTransforms

IGNORE_INDEX = 255
_REMEDY = (
    "set GATEDVISION_DATA, or the folders of the data set (--cfg-options train_dataloader.dataset.images=PATH ...)"
)
_ORIENTATION_TAG = 0x0112


class SegmentationFolder(Dataset[dict[str, Any]]):
    """Images and, for each, a file of one channel that holds the class of each pixel.

    Images are searched for recursively and kept in sorted order; the labels of ``images/a/b.jpg`` lie at
    ``labels/a/b.png``. A sample is ``dict(inputs=..., labels=..., name=...)``: the image as bytes ``[3, H, W]``, the
    classes ``[H, W]`` as bytes, counted from 0, with 255 for pixels to ignore, and ``"a/b"``.

    Args:
        images: folder of the images.
        labels: folder of the label files. ``$NAME`` and ``~`` are expanded in both; ``$GATEDVISION_DATA`` is ``data``
            when unset.
        classes: names of the classes, at most 255.
        label_ids: the value in the files of each class; 0, 1, 2, ... by default.
        ignored_ids: values in the files that are no class; all others are errors.
        image_suffix: how the images' names end beyond the type, in data sets whose files say what they are, such as
            ``"_leftImg8bit.png"``; by default everything of a known type is an image.
        label_suffix: what the labels' names have in the place of the images' suffix.
        transforms: albumentations transforms for images and labels, or configs of them; see
            :class:`LabelTransforms`. None for evaluation: the task resizes images, and labels stay as they are.

    Raises:
        FileNotFoundError: a folder, the images or labels of some of them are missing.
        ValueError: the ids do not fit the classes.
    """

    # How the names of its images end.
    suffixes: Collection[str] = IMAGE_SUFFIXES

    def __init__(
        self,
        images: str | Path,
        labels: str | Path,
        classes: Sequence[str],
        label_ids: Sequence[int] | None = None,
        ignored_ids: Sequence[int] = (IGNORE_INDEX,),
        image_suffix: str | None = None,
        label_suffix: str = ".png",
        transforms: Sequence[Any] = (),
    ) -> None:
        self.classes = list(classes)
        self.ignored_ids = tuple(ignored_ids)
        self.label_ids = tuple(range(len(self.classes)) if label_ids is None else label_ids)
        self._class_of = _lookup_table(self.classes, self.label_ids, self.ignored_ids)
        self.samples = _pair_files(expand_path(images), expand_path(labels), image_suffix, label_suffix, self.suffixes)
        self.transforms = LabelTransforms(transforms) if transforms else None
        self.metainfo = {"classes": self.classes}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image_path, label_path, name = self.samples[index]
        image = np.asarray(read_image(image_path))
        labels = self.read_labels(label_path)
        if image.shape[:2] != labels.shape:
            raise ValueError(describe_sizes(image_path, image, label_path, labels))
        return make_sample(image, labels, name, self.transforms)

    def read_labels(self, path: Path) -> np.ndarray:
        """Read a label file.

        Args:
            path: the file.

        Returns:
            Classes ``[H, W]`` from 0 and 255 for pixels to ignore, uint8.

        Raises:
            UnreadableImageError: it is missing or damaged.
            ValueError: it has several channels, or a value that is neither a class nor ignored.
        """
        return self.to_classes(_read_values(path), path)

    def to_classes(self, values: np.ndarray, path: Path) -> np.ndarray:
        """Find the classes that the values of a file stand for.

        Args:
            values: whole numbers, of any shape.
            path: the file, for the message.

        Returns:
            Classes from 0 and 255 for what is to be ignored, uint8, of the same shape.

        Raises:
            ValueError: a value is neither a class nor ignored.
        """
        in_table = (values >= 0) & (values < len(self._class_of))
        classes = self._class_of[np.where(in_table, values, 0)]
        wrong = ~in_table | (classes < 0)
        if wrong.any():
            place = tuple(np.argwhere(wrong)[0].tolist())
            where = "row {}, column {}".format(*place) if values.ndim == 2 else f"voxel {place}"
            raise ValueError(
                f"label {values[place]} at {where} of '{path}' is none of the classes "
                f"{_describe_ids(self.label_ids)} nor ignored ({_describe_ids(self.ignored_ids)}); "
                f"{int(wrong.sum())} of {wrong.size} {'pixels' if values.ndim == 2 else 'voxels'} have such labels"
            )
        return classes.astype(np.uint8)


def make_sample(image: np.ndarray, labels: np.ndarray, name: str, transforms: Any | None) -> dict[str, Any]:
    """Transform an image with its labels and turn them into tensors.

    Args:
        image: uint8 ``[H, W, 3]``.
        labels: uint8 ``[H, W]``.
        name: what the image is called.
        transforms: maps both to both, or ``None``.

    Returns:
        ``inputs`` ``[3, H, W]`` and ``labels`` ``[H, W]``, bytes, and ``name``.
    """
    if transforms is not None:
        image, labels = transforms(image, labels)
    # Pillow's pixels are read-only, and torch wants to own what it writes to.
    inputs = torch.tensor(image).permute(2, 0, 1).contiguous()
    return {"inputs": inputs, "labels": torch.tensor(labels), "name": name}


def collate_label_maps(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put segmentation samples into one batch.

    Args:
        samples: dictionaries with ``inputs``, ``labels``, ``name`` and, of volumes, perhaps ``spacing``.

    Returns:
        ``inputs`` ``[B, 3, H, W]`` and ``labels`` ``[B, H, W]``, or lists of ``[3, H_i, W_i]`` and ``[H_i, W_i]``
        where the images differ in size (of volumes likewise); ``names``, and perhaps ``spacings``.
    """
    batch: dict[str, Any] = {"names": [sample["name"] for sample in samples]}
    if all("spacing" in sample for sample in samples):
        batch["spacings"] = [sample["spacing"] for sample in samples]
    for key in ("inputs", "labels"):
        tensors = [sample[key] for sample in samples]
        same_shape = len({tensor.shape for tensor in tensors}) == 1
        # In a worker process this stacks into shared memory, where the batch has to go anyway.
        batch[key] = default_collate(tensors) if same_shape else tensors
    return batch


def _lookup_table(classes: Sequence[str], label_ids: Sequence[int], ignored_ids: Sequence[int]) -> np.ndarray:
    """The class of each value of 16 bits, 255 for the ignored ones and -1 for what must not occur.

    Raises:
        ValueError: the ids do not fit the classes, or do not fit into a file.
    """
    if not 2 <= len(classes) <= IGNORE_INDEX:
        raise ValueError(f"a label map has 2 to {IGNORE_INDEX} classes, got {len(classes)}")
    if len(label_ids) != len(classes) or len(set(label_ids)) != len(classes):
        raise ValueError(f"{len(classes)} classes need as many different label_ids, got {tuple(label_ids)}")
    both = set(label_ids) & set(ignored_ids)
    if both:
        raise ValueError(f"labels {sorted(both)} cannot be a class and ignored; set ignored_ids")
    table = np.full(2**16, -1, dtype=np.int16)
    for ids, targets in ((ignored_ids, [IGNORE_INDEX] * len(ignored_ids)), (label_ids, range(len(classes)))):
        for value, target in zip(ids, targets, strict=True):
            if not 0 <= value < len(table):
                raise ValueError(f"a label file cannot hold {value}; ids lie in 0..{len(table) - 1}")
            table[value] = target
    return table


def _pair_files(
    images: Path, labels: Path, image_suffix: str | None, label_suffix: str, suffixes: Collection[str]
) -> list[tuple[Path, Path, str]]:
    for folder in (images, labels):
        if not folder.is_dir():
            raise FileNotFoundError(f"no data folder '{folder}'; {_REMEDY}")
    paths = [path for path in images_in(images, True, suffixes) if path.name.endswith(image_suffix or "")]
    if not paths:
        ending = f" that ends in '{image_suffix}'" if image_suffix else ""
        raise FileNotFoundError(f"no image{ending} in '{images}'; {_REMEDY}")
    existing = set(images_in(labels, True, suffixes))
    samples, missing = [], []
    for path in paths:
        # Of endings such as .nii.gz the whole.
        ending = image_suffix or max((end for end in suffixes if path.name.lower().endswith(end)), key=len)
        name = path.relative_to(images).as_posix()[: -len(ending)]
        label_path = labels / f"{name}{label_suffix}"
        samples.append((path, label_path, name))
        if label_path not in existing:
            missing.append(label_path)
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} images in '{images}' have no labels, the first '{missing[0]}'; "
            "remove them, or set labels and label_suffix"
        )
    return samples


def _read_values(path: Path) -> np.ndarray:
    """Read the single channel of a label file, int32.

    Raises:
        UnreadableImageError: it is missing or damaged.
        ValueError: it has several channels or holds fractions.
    """
    try:
        with Image.open(path) as image:
            image.load()
            mode, values = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split()).replace(f"'{path}'", "").strip()
        raise UnreadableImageError(f"cannot read labels '{path}': {reason}") from error
    # Palettes colour the classes for viewers; the pixels hold the indices.
    if mode not in ("1", "L", "P") and not mode.startswith("I"):
        raise ValueError(f"labels '{path}' are of mode {mode}; a label map has one channel of class indices")
    return values.astype(np.int32)


def describe_sizes(image_path: Path, image: np.ndarray, label_path: Path, labels: np.ndarray) -> str:
    """Say how an image and its labels differ in size.

    Args:
        image_path: the image file.
        image: ``[H, W, C]``.
        label_path: the label file.
        labels: ``[H, W]``.
    """
    message = (
        f"image '{image_path}' is of {image.shape[1]}x{image.shape[0]} pixels, "
        f"its labels '{label_path}' of {labels.shape[1]}x{labels.shape[0]}"
    )
    with Image.open(image_path) as stored:
        turned = stored.getexif().get(_ORIENTATION_TAG, 1) != 1
    if turned:
        message += "; the image is turned by its EXIF orientation, the labels have to be as it is shown"
    return message


def _describe_ids(ids: Sequence[int]) -> str:
    """Name ids, runs of them by their ends."""
    runs: list[list[int]] = []
    for value in sorted(ids):
        if runs and value == runs[-1][-1] + 1:
            runs[-1][1:] = [value]
        else:
            runs.append([value])
    return ", ".join("..".join(str(end) for end in run) for run in runs) or "none"
