"""Generated organs in generated scans: medical segmentation data without a download, in two and three dimensions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.registry import TRANSFORMS
from torch.utils.data import Dataset

_SPLITS = ("train", "val")
# Of each kind: mean intensity; half axes, and place along the first two axes, as shares of a side.
# The kinds' intensities overlap, those of one scan differing by 0.05 from them: place and size decide, too.
_KINDS: dict[str, tuple[float, tuple[float, float], tuple[float, float]]] = {
    "large": (0.55, (0.20, 0.26), (0.30, 0.50)),
    "bright": (0.70, (0.13, 0.18), (0.72, 0.30)),
    "small": (0.60, (0.11, 0.15), (0.72, 0.70)),
}
_WANDER = 0.06
_TISSUE, _NOISE, _SPREAD = 0.35, 0.08, 0.05
_TURN = math.pi / 6


class GeneratedOrgans(Dataset[dict[str, Any]]):
    """Scans of ellipsoids of up to three kinds, whose intensities overlap, under noise, shading and clutter.

    Clutter is as bright as organs are: spots and rods that are too small to be one. A later organ covers the earlier
    ones. What a scan shows depends on split, place in it and size alone. A sample is like one of
    :class:`VolumeFolder`: ``inputs`` float32 ``[1, *size]`` of zero mean and unit variance, ``labels``, ``name`` and,
    in three dimensions, ``spacing``.

    Args:
        split: ``"train"`` or ``"val"``.
        length: number of scans.
        size: sides, pixels, 16 or more: two or three.
        kinds: how many kinds of organs there are, 1 to 3.
        spacing: sides of a voxel, mm.
        channels: copies of the scan, for networks that want colours.
        patch: :class:`RandomPatch`, or a config of it, to cut out; ``None`` for whole scans.

    Raises:
        ValueError: unknown split, or an option out of range.
    """

    def __init__(
        self,
        split: str,
        length: int = 32,
        size: Sequence[int] = (32, 32, 32),
        kinds: int = 3,
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
        channels: int = 1,
        patch: Any | None = None,
    ) -> None:
        if split not in _SPLITS:
            raise ValueError(f"split of the organs must be 'train' or 'val', got {split!r}")
        if length < 1 or len(size) not in (2, 3) or min(size) < 16:
            raise ValueError(
                f"length must be at least 1 and size two or three sides of 16 or more, got {length}, {size}"
            )
        if not 1 <= kinds <= len(_KINDS):
            raise ValueError(f"kinds must be 1 to {len(_KINDS)}, got {kinds}")
        self.split = split
        self.spacing = tuple(float(side) for side in spacing)
        self.channels = channels
        self.patch = TRANSFORMS.build(dict(patch)) if isinstance(patch, Mapping) else patch
        self.metainfo = {"classes": ["background", *list(_KINDS)[:kinds]]}
        self._scans = [
            draw_scan(size, kinds, np.random.default_rng((_SPLITS.index(split), index, *size)))
            for index in range(length)
        ]

    def __len__(self) -> int:
        return len(self._scans)

    def __getitem__(self, index: int) -> dict[str, Any]:
        values, classes = self._scans[index]
        image = torch.from_numpy(values)[None].repeat(self.channels, *[1] * values.ndim)
        labels = torch.from_numpy(classes)
        if self.patch is not None:
            image, labels = self.patch(image, labels)
        sample = {"inputs": image, "labels": labels, "name": f"{self.split}_{index:05d}"}
        return {**sample, "spacing": self.spacing} if values.ndim == 3 else sample


def draw_scan(size: Sequence[int], kinds: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scan.

    Args:
        size: its sides.
        kinds: how many kinds of organs there are.
        generator: random numbers.

    Returns:
        Intensities, float32 of zero mean and unit variance, and classes, uint8, both ``[*size]``.
    """
    places = np.stack(np.meshgrid(*[np.arange(side) for side in size], indexing="ij"), -1).astype(np.float32)
    sides = np.array(size, dtype=np.float32)
    scan = np.full(size, _TISSUE, dtype=np.float32)
    labels = np.zeros(size, dtype=np.uint8)
    for _ in range(4 * len(size)):
        # Short or thin, and as bright as an organ.
        axes = sides * generator.uniform(0.025, 0.06, len(size))
        axes[generator.integers(len(size))] *= generator.choice([1.0, 3.0])
        spot = _ellipsoid(places, generator.uniform(0, sides - 1), axes, generator)
        scan[spot] = generator.uniform(0.4, 0.8)
    for label, (brightness, radii, place) in enumerate(list(_KINDS.values())[:kinds], 1):
        center = generator.uniform(0.35, 0.65, len(size))
        center[:2] = place + generator.uniform(-_WANDER, _WANDER, 2)
        axes = sides * generator.uniform(*radii, len(size))
        organ = _ellipsoid(places, center * sides, axes, generator)
        scan[organ] = brightness + _SPREAD * generator.standard_normal()
        labels[organ] = label
    # A slope over the scan, as coils and lamps make it.
    slope = generator.uniform(-0.1, 0.1, len(size))
    scan += ((places / sides - 0.5) @ slope).astype(np.float32)
    scan += _NOISE * generator.standard_normal(size).astype(np.float32)
    return (scan - scan.mean()) / scan.std(), labels


def _ellipsoid(places: np.ndarray, center: np.ndarray, axes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Which pixels lie in an ellipsoid that is turned a little in the plane of the first two axes."""
    angle = generator.uniform(-_TURN, _TURN)
    turn = np.eye(len(axes), dtype=np.float32)
    turn[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    offsets = (places - center.astype(np.float32)) @ turn
    return ((offsets / axes.astype(np.float32)) ** 2).sum(-1) <= 1
