"""Volumes with label maps: two folders of files with matching names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.registry import TRANSFORMS
from torch import Tensor

from gatedvision.data.intensity import IntensityScaling
from gatedvision.data.segmentation import IGNORE_INDEX, SegmentationFolder
from gatedvision.data.volume_reader import VOLUME_SUFFIXES, Spacing, Volume, read_volume

# Relative difference of two spacings that rounding in a file explains.
_SAME = 1e-3


class VolumeFolder(SegmentationFolder):
    """Scans and, for each, a volume of the same size that holds the class of each voxel.

    Files are ``.nii``, ``.nii.gz`` (with nibabel), ``.npy`` or ``.npz``, see :func:`read_volume`; they are searched
    for and named as by :class:`SegmentationFolder`. A sample is ``dict(inputs=..., labels=..., name=...,
    spacing=...)``: float32 ``[1, X, Y, Z]``, bytes ``[X, Y, Z]``, text, and the voxel's sides in mm where known.

    Args:
        images: folder of the scans.
        labels: folder of the label volumes.
        classes: names of the classes, the background first.
        label_ids: the value in the files of each class; 0, 1, 2, ... by default.
        ignored_ids: values in the files that are no class; all others are errors.
        image_suffix: how the scans' names end, such as ``"_0000.nii.gz"``; by default all of a known type are scans.
        label_suffix: what the labels' names have in the place of it.
        intensity: arguments of :class:`IntensityScaling`, which is applied to each scan.
        spacing: sides of a voxel, mm, of files that do not say.
        resample: sides of a voxel, mm, to which scans (trilinearly) and labels (nearest voxel) are brought; one number
            for all three. ``None`` leaves them as they are.
        patch: :class:`RandomPatch`, or a config of it, to cut out; ``None`` for whole volumes.
        keep: keep what was read and scaled in memory, in each worker process.

    Raises:
        FileNotFoundError: a folder, the scans or labels of some of them are missing.
        ValueError: an option is out of range.
    """

    suffixes = VOLUME_SUFFIXES

    def __init__(
        self,
        images: str | Path,
        labels: str | Path,
        classes: Sequence[str],
        label_ids: Sequence[int] | None = None,
        ignored_ids: Sequence[int] = (IGNORE_INDEX,),
        image_suffix: str | None = None,
        label_suffix: str = ".nii.gz",
        intensity: Mapping[str, Any] | None = None,
        spacing: Sequence[float] | None = None,
        resample: float | Sequence[float] | None = None,
        patch: Any | None = None,
        keep: bool = False,
    ) -> None:
        super().__init__(images, labels, classes, label_ids, ignored_ids, image_suffix, label_suffix)
        self.scale = IntensityScaling(**{"mode": "z_score", **(intensity or {})})
        self.spacing = None if spacing is None else _three_sides("spacing", spacing)
        self.resample = None if resample is None else _three_sides("resample", resample)
        self.patch = TRANSFORMS.build(dict(patch)) if isinstance(patch, Mapping) else patch
        self.keep = keep
        self._kept: dict[int, tuple[Tensor, Tensor, Spacing | None]] = {}

    def __getitem__(self, index: int) -> dict[str, Any]:
        loaded = self._kept[index] if index in self._kept else self._load(index)
        if self.keep:
            self._kept[index] = loaded
        image, labels, spacing = loaded
        if self.patch is not None:
            image, labels = self.patch(image, labels)
        sample = {"inputs": image, "labels": labels, "name": self.samples[index][2]}
        return sample if spacing is None else {**sample, "spacing": spacing}

    def read_labels(self, path: Path) -> np.ndarray:
        """Read a label volume.

        Args:
            path: the file.

        Returns:
            Classes ``[X, Y, Z]`` from 0 and 255 for voxels to ignore, uint8.

        Raises:
            UnreadableImageError: it is missing or damaged.
            ValueError: it holds a value that is neither a class nor ignored.
        """
        return self._to_labels(read_volume(path), path)

    def _to_labels(self, volume: Volume, path: Path) -> np.ndarray:
        values = np.asarray(volume.values)
        if values.dtype.kind == "f":
            fractions = values != np.round(values)
            if fractions.any():
                raise ValueError(f"labels '{path}' hold {values[fractions][0]}; a label map has whole numbers")
        return self.to_classes(values.astype(np.int32), path)

    def _load(self, index: int) -> tuple[Tensor, Tensor, Spacing | None]:
        """Read and scale a volume with its labels.

        Raises:
            ValueError: they do not fit each other, or cannot be resampled.
        """
        image_path, label_path, _ = self.samples[index]
        volume, stored_labels = read_volume(image_path), read_volume(label_path)
        labels = self._to_labels(stored_labels, label_path)
        if volume.values.shape != labels.shape:
            raise ValueError(
                f"volume '{image_path}' is of {volume.values.shape} voxels, its labels '{label_path}' of {labels.shape}"
            )
        if volume.spacing is not None and stored_labels.spacing is not None:
            if not np.allclose(volume.spacing, stored_labels.spacing, rtol=_SAME):
                raise ValueError(
                    f"voxels of '{image_path}' are {volume.spacing} mm, of its labels '{label_path}' "
                    f"{stored_labels.spacing} mm"
                )
        try:
            image = torch.from_numpy(self.scale(volume.values))
        except ValueError as error:
            raise ValueError(f"volume '{image_path}': {error}") from error
        spacing = volume.spacing or stored_labels.spacing or self.spacing
        target = torch.from_numpy(labels)
        if self.resample is not None:
            if spacing is None:
                raise ValueError(f"'{image_path}' does not say its spacing, so it cannot be resampled: give spacing=")
            image, target = _resample(image, target, spacing, self.resample)
            spacing = self.resample
        return image[None], target, spacing


def _three_sides(name: str, sides: float | Sequence[float]) -> Spacing:
    """Three sides of a voxel.

    Raises:
        ValueError: they are something else.
    """
    values = tuple(float(side) for side in ([sides] * 3 if isinstance(sides, int | float) else sides))
    if len(values) != 3 or min(values) <= 0:
        raise ValueError(f"{name} must be three positive lengths in mm, got {sides}")
    return values


def _resample(image: Tensor, labels: Tensor, spacing: Spacing, wanted: Spacing) -> tuple[Tensor, Tensor]:
    """Bring a volume and its labels to voxels of another size; what they cover stays the same to half a voxel."""
    size = [max(round(n * a / b), 1) for n, a, b in zip(image.shape, spacing, wanted, strict=True)]
    if tuple(size) == tuple(image.shape):
        return image, labels
    image = F.interpolate(image[None, None], size=size, mode="trilinear", align_corners=False)[0, 0]
    return image, F.interpolate(labels[None, None].float(), size=size, mode="nearest-exact")[0, 0].byte()
