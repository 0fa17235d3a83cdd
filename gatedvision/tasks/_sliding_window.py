"""Scores for every pixel of an image or volume of any size, window by window, in bounded memory."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from gatedvision.data.patches import crop
from gatedvision.tasks._dense_inference import window_starts

Predict = Callable[[Tensor], Tensor]
# Of a window's weights, so that no pixel is divided by next to nothing, in half precision either.
_LEAST_WEIGHT = 1e-3


class SlidingWindow:
    """Cuts images and volumes into windows of one size, and blends the logits where they overlap.

    The weights of a window fall as a Gaussian from its centre, where the network sees most of what is around a pixel.
    Only the windows of one batch are on the GPU; sums are kept where ``accumulate_on`` says, ``K + 1`` numbers for each
    pixel in ``dtype``.

    Args:
        size: sides of a window, pixels: two for images, three for volumes. ``None`` shows images whole.
        overlap: share of a side by which neighbours overlap, 0 to less than 1.
        blend: ``"gaussian"``, or ``"constant"`` for the plain mean.
        batch_size: windows that are predicted at once.
        accumulate_on: ``"cpu"``, or ``"device"`` for the device of the image, which is faster and takes its memory.
        dtype: ``"float32"``, or ``"float16"`` for half the memory and errors of a thousandth.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        size: Sequence[int] | None = None,
        overlap: float = 0.5,
        blend: Literal["gaussian", "constant"] = "gaussian",
        batch_size: int = 1,
        accumulate_on: Literal["cpu", "device"] = "cpu",
        dtype: Literal["float32", "float16"] = "float32",
    ) -> None:
        if size is not None and (len(size) not in (2, 3) or min(size) < 1):
            raise ValueError(f"window size must be two or three sides of at least one pixel, got {tuple(size)}")
        if not 0 <= overlap < 1:
            raise ValueError(f"overlap must lie in [0, 1), got {overlap}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least one window, got {batch_size}")
        choices = {"blend": ("gaussian", "constant"), "accumulate_on": ("cpu", "device")}
        choices["dtype"] = ("float32", "float16")
        for (name, known), value in zip(choices.items(), (blend, accumulate_on, dtype), strict=True):
            if value not in known:
                raise ValueError(f"{name} must be {' or '.join(known)}, got {value!r}")
        self.size = None if size is None else tuple(size)
        self.overlap = overlap
        self.blend = blend
        self.batch_size = batch_size
        self.accumulate_on = accumulate_on
        self.dtype = torch.float32 if dtype == "float32" else torch.float16

    def __call__(self, predict: Predict, image: Tensor) -> Tensor:
        """Score the pixels of an image.

        Where the image is smaller than a window, it is padded on all sides with its least value.

        Args:
            predict: maps windows ``[N, C, *size]`` to logits ``[N, K, *size]``.
            image: ``[C, *sides]``.

        Returns:
            Logits ``[K, *sides]``, float32, or ``dtype`` if several windows were blended.

        Raises:
            ValueError: the image has another number of axes than a window.
        """
        if self.size is None:
            return predict(image[None])[0].float()
        sides = image.shape[1:]
        if len(sides) != len(self.size):
            raise ValueError(f"windows of {self.size} do not fit an image {tuple(image.shape)}, channels first")
        before = [max(length - side, 0) // 2 for side, length in zip(sides, self.size, strict=True)]
        padded = [max(side, length) for side, length in zip(sides, self.size, strict=True)]
        if padded != list(sides):
            image = crop(image, [-n for n in before], padded, float(image.amin()))
        scores = self._blend(predict, image)
        return scores[(..., *[slice(n, n + side) for n, side in zip(before, sides, strict=True)])]

    def _blend(self, predict: Predict, image: Tensor) -> Tensor:
        assert self.size is not None
        sides = image.shape[1:]
        strides = [max(int(length * (1 - self.overlap)), 1) for length in self.size]
        starts = [*product(*map(window_starts, sides, self.size, strides))]
        if len(starts) == 1:
            return predict(image[None])[0].float()
        device = torch.device("cpu") if self.accumulate_on == "cpu" else image.device
        weight = self._weights().to(device, self.dtype)
        total, count = None, torch.zeros(tuple(sides), dtype=self.dtype, device=device)
        for first in range(0, len(starts), self.batch_size):
            batch = [
                tuple(slice(n, n + length) for n, length in zip(start, self.size, strict=True))
                for start in starts[first : first + self.batch_size]
            ]
            logits = predict(torch.stack([image[(..., *place)] for place in batch])).to(device, self.dtype)
            if total is None:
                total = logits.new_zeros((logits.shape[1], *sides))
            for place, window in zip(batch, logits, strict=True):
                total[(..., *place)].addcmul_(window, weight)
                count[place] += weight
        assert total is not None
        return total.div_(count)

    def _weights(self) -> Tensor:
        """Weights ``[*size]`` of the pixels of a window, at most 1."""
        assert self.size is not None
        weight = torch.ones(self.size)
        if self.blend == "constant":
            return weight
        for axis, length in enumerate(self.size):
            # An eighth of the side is the deviation.
            distance = (torch.arange(length) - (length - 1) / 2) / (length / 8)
            weight *= (-0.5 * distance**2).exp().view(-1, *[1] * (len(self.size) - axis - 1))
        return (weight / weight.max()).clamp(min=_LEAST_WEIGHT)
