"""Volumes from files: NIfTI through nibabel, and NumPy's own."""

import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gatedvision.data.image_reader import UnreadableImageError

VOLUME_SUFFIXES = frozenset({".nii", ".nii.gz", ".npy", ".npz"})
Spacing = tuple[float, float, float]


class Volume(NamedTuple):
    """Values ``[X, Y, Z]`` of one scan, and the size of a voxel in mm, ``None`` where the file does not say."""

    values: np.ndarray
    spacing: Spacing | None


def read_volume(path: Path) -> Volume:
    """Read a volume.

    NIfTI files (``.nii``, ``.nii.gz``) are turned to the orientation right, anterior, superior, so that the last axis
    runs from feet to head; their voxels' sizes are in mm. ``.npy`` holds an array. ``.npz`` holds one array, or some of
    which one is called ``volume``; ``spacing``, three numbers in mm, may be beside it.

    Args:
        path: the file.

    Returns:
        Its values, as they are stored or scaled by the file's own factor, and its spacing.

    Raises:
        UnreadableImageError: the file is missing, damaged, or holds no volume of three axes.
        ModuleNotFoundError: the file is NIfTI, and nibabel is not installed.
    """
    try:
        values, spacing = _read_nifti(path) if path.name.lower().endswith((".nii", ".nii.gz")) else _read_numpy(path)
        return _check(values, spacing)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split()).replace(f"'{path}'", "").strip()
        raise UnreadableImageError(f"cannot read volume '{path}': {reason or type(error).__name__}") from error


def _check(values: np.ndarray, spacing: Any) -> Volume:
    """Make a volume of what a file holds.

    Raises:
        ValueError: it holds something else.
    """
    if values.ndim != 3 or values.size == 0:
        raise ValueError(f"a volume has three axes of at least one voxel, this one is {values.shape}")
    if values.dtype.kind not in "biuf":
        raise ValueError(f"its values are of type {values.dtype}, and not numbers")
    if spacing is None:
        return Volume(values, None)
    sides = tuple(float(side) for side in np.ravel(spacing))
    if len(sides) != 3 or not all(np.isfinite(side) and side > 0 for side in sides):
        raise ValueError(f"its spacing {sides} is not three positive lengths")
    return Volume(values, sides)


def _read_nifti(path: Path) -> tuple[np.ndarray, Any]:
    try:
        import nibabel
        from nibabel.filebasedimages import ImageFileError
    except ModuleNotFoundError as error:
        message = f"'{path}' is read by nibabel, which is not installed: pip install 'gatedvision[medical]'"
        raise ModuleNotFoundError(message, name=error.name) from error
    try:
        stored: Any = nibabel.load(path)
        image = nibabel.as_closest_canonical(stored)
        values = np.asanyarray(image.dataobj)
        # A single channel or moment, which many programs write as an axis of its own.
        while values.ndim > 3 and values.shape[-1] == 1:
            values = values[..., 0]
        return values, image.header.get_zooms()[:3]
    except ImageFileError as error:
        raise ValueError(str(error)) from error


def _read_numpy(path: Path) -> tuple[np.ndarray, Any]:
    """Read .npy or .npz.

    Raises:
        ValueError: it is not clear which array is the volume.
    """
    stored: Any = np.load(path, allow_pickle=False)
    if isinstance(stored, np.ndarray):
        return stored, None
    with stored:
        names = [name for name in stored.files if name != "spacing"]
        name = "volume" if "volume" in names else names[0] if len(names) == 1 else None
        if name is None:
            raise ValueError(f"it holds the arrays {', '.join(names) or 'none'}; call one of them 'volume'")
        return stored[name], stored["spacing"] if "spacing" in stored.files else None
