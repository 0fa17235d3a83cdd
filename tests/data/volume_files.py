"""A scan and its labels, and how to write them as NIfTI and as NumPy's own files."""

from pathlib import Path

import nibabel
import numpy as np

SPACING = (1.0, 2.0, 3.0)


def draw(sides: tuple[int, ...] = (8, 9, 10)) -> tuple[np.ndarray, np.ndarray]:
    """Draw the values of a scan and labels 0 to 2."""
    generator = np.random.default_rng(0)
    return generator.normal(100, 400, sides).astype(np.int16), generator.integers(0, 3, sides).astype(np.uint8)


def write_nifti(path: Path, values: np.ndarray, spacing=SPACING, flip: bool = False) -> None:
    """Write a NIfTI file; turned, it holds the same body stored the other way round."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*spacing, 1.0])
    if flip:
        # The same body, stored from left to right instead.
        values = values[::-1]
        affine[0, 0] = -spacing[0]
        affine[0, 3] = spacing[0] * (len(values) - 1)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)


def write_numpy(path: Path, values: np.ndarray, **others: np.ndarray) -> None:
    """Write an array to .npy, or to .npz with others beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        np.savez(path, volume=values, **others)
