"""Random patches of images and volumes, with their labels: where organs are, turned, scaled and mirrored."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_IGNORE_INDEX = 255


class RandomPatch:
    """Cuts a patch of fixed size out of an image or volume, with its labels.

    A share of the patches holds a random pixel of a random class of those that the labels have, however small it is
    (where things appear smaller, single pixels may be skipped); the others lie anywhere. Turned and scaled patches are
    sampled (bi- or trilinearly, labels from the nearest pixel) from the whole image, so that their corners show what
    is there. What lies outside of the image, and what is missing where the image is smaller than the patch, has its
    least value and is ignored. Random numbers are torch's.

    Args:
        size: sides of the patch, pixels: two for images, three for volumes.
        foreground: share of the patches with a pixel of a class other than 0, 0 to 1.
        flip: chance to mirror along an axis: one for all, or one for each.
        rotation: largest angle, degrees, in the plane of the first two axes (the axial one of a CT volume).
        scale: least and greatest factor by which things appear larger.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        size: Sequence[int],
        foreground: float = 0.5,
        flip: float | Sequence[float] = 0.0,
        rotation: float = 0.0,
        scale: Sequence[float] = (1.0, 1.0),
    ) -> None:
        self.size = tuple(size)
        if len(self.size) not in (2, 3) or min(self.size) < 1:
            raise ValueError(f"size must be two or three sides of at least one pixel, got {self.size}")
        self.flip = (flip,) * len(self.size) if isinstance(flip, int | float) else tuple(flip)
        if len(self.flip) != len(self.size):
            raise ValueError(f"flip={self.flip} needs one chance, or one for each of the sides of {self.size}")
        for name, chance in [("foreground", foreground), *(("flip", chance) for chance in self.flip)]:
            if not 0 <= chance <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {chance}")
        if not 0 <= rotation <= 180:
            raise ValueError(f"rotation must lie in 0..180 degrees, got {rotation}")
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale must be two positive factors that do not fall, got {tuple(scale)}")
        self.foreground = foreground
        self.rotation = rotation
        self.scale = (scale[0], scale[1])

    def __call__(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Cut out a patch.

        Args:
            image: ``[C, *sides]``.
            labels: classes ``[*sides]``, 255 for what is ignored.

        Returns:
            Both, ``[C, *size]`` and ``[*size]``.

        Raises:
            ValueError: the image has another number of axes, or the labels other sides.
        """
        if image.ndim != len(self.size) + 1:
            raise ValueError(f"a patch of {self.size} does not fit an image {tuple(image.shape)}, channels first")
        if labels.shape != image.shape[1:]:
            raise ValueError(f"labels {tuple(labels.shape)} do not fit the image {tuple(image.shape)}")
        inside = self._draw_foreground(labels) if _uniform() < self.foreground else None
        start = self._draw_start(labels.shape, inside)
        if self.rotation == 0 and self.scale == (1.0, 1.0):
            low = image.amin().item()
            patch, patch_labels = crop(image, start, self.size, low), crop(labels, start, self.size, _IGNORE_INDEX)
        else:
            patch, patch_labels = self._sample(image, labels, start, inside)
        axes = [axis for axis, chance in enumerate(self.flip) if _uniform() < chance]
        if axes:
            patch, patch_labels = patch.flip([axis + 1 for axis in axes]), patch_labels.flip(axes)
        return patch, patch_labels

    def _draw_foreground(self, labels: Tensor) -> list[int] | None:
        """A random pixel of a random class, ``None`` if there is none."""
        counts = torch.bincount(labels.flatten(), minlength=_IGNORE_INDEX + 1)
        present = counts[1:_IGNORE_INDEX].nonzero().flatten() + 1
        if not len(present):
            return None
        label = present[torch.randint(len(present), ())]
        return (labels == label).nonzero()[torch.randint(int(counts[label]), ())].tolist()

    def _draw_start(self, sides: Sequence[int], inside: Sequence[int] | None) -> list[int]:
        """First pixel of the patch along each axis; negative where the image is smaller."""
        start = []
        for axis, (side, length) in enumerate(zip(sides, self.size, strict=True)):
            first, last = 0, side - length
            if last < 0:
                start.append(last // 2)
                continue
            if inside is not None:
                first, last = max(inside[axis] - length + 1, 0), min(inside[axis], last)
            start.append(int(torch.randint(first, last + 1, ())))
        return start

    def _sample(
        self, image: Tensor, labels: Tensor, start: Sequence[int], inside: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        angle = math.radians(self.rotation) * (2 * _uniform() - 1)
        zoom = self.scale[0] + (self.scale[1] - self.scale[0]) * _uniform()
        turn = torch.eye(len(self.size))
        turn[:2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        # Distances from the centre of the patch, and from there to pixels of the image.
        steps = [torch.arange(length) - (length - 1) / 2 for length in self.size]
        offsets = torch.stack(torch.meshgrid(*steps, indexing="ij"), -1) @ (turn.T / zoom)
        center = torch.tensor([first + (length - 1) / 2 for first, length in zip(start, self.size, strict=True)])
        if inside is not None:
            # Turning and enlarging may have moved the pixel out of the patch; move the patch after it.
            place = (torch.tensor(inside, dtype=torch.float32) - center) @ turn * zoom
            reach = (torch.tensor(self.size) - 1) / 2
            center += (place - place.clamp(-reach, reach)) @ turn.T / zoom
        low = image.amin()
        # Along a side of a single pixel the sampler would find that pixel everywhere.
        sides = [max(side, 2) for side in labels.shape]
        image = crop(image, [0] * len(sides), sides, float(low))
        labels = crop(labels, [0] * len(sides), sides, _IGNORE_INDEX)
        # From -1 to 1 between the centres of the outermost pixels, the last axis first.
        grid = (2 * (center + offsets) / (torch.tensor(sides) - 1) - 1).flip(-1)[None]
        # The sampler takes 0 for what is outside.
        patch = F.grid_sample((image.float() - low)[None], grid, align_corners=True)[0] + low
        shifted = labels.float()[None, None] - _IGNORE_INDEX
        patch_labels = F.grid_sample(shifted, grid, mode="nearest", align_corners=True)[0, 0] + _IGNORE_INDEX
        patch = patch if image.is_floating_point() else patch.round()
        return patch.to(image.dtype), patch_labels.round().to(labels.dtype)


def crop(x: Tensor, start: Sequence[int], size: Sequence[int], fill: float) -> Tensor:
    """Cut a window out of the last axes of a tensor; where it reaches beyond, there is a constant.

    Args:
        x: ``[..., *sides]``.
        start: first index along each of the last axes, perhaps negative.
        size: lengths of the window.
        fill: the constant.

    Returns:
        ``[..., *size]``.
    """
    inside, padding = [], []
    for first, length, side in zip(start, size, x.shape[x.ndim - len(size) :], strict=True):
        begin, end = (min(max(place, 0), side) for place in (first, first + length))
        before = min(max(-first, 0), length)
        inside.append(slice(begin, end))
        padding.append((before, length - before - (end - begin)))
    window = x[(..., *inside)]
    if not any(before or after for before, after in padding):
        return window.clone()
    return F.pad(window, [n for before_after in reversed(padding) for n in before_after], value=fill)


def _uniform() -> float:
    return float(torch.rand(()))
