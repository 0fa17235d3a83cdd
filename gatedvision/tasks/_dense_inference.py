"""Scores for every pixel of an image of any size: whole or in windows, at several scales, mirrored."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Predict = Callable[[Tensor], Tensor]


class DenseInference:
    """How an image is shown to a network, and how the views of it are put together.

    Args:
        short_side: resize the image to this short side first, pixels; ``None`` leaves it as it is.
        long_side: keep the long side below this when resizing, pixels.
        crop: predict square windows of this side and average the logits where they overlap; ``None`` shows the whole
            image at once.
        stride: pixels from one window to the next; two thirds of ``crop`` by default.
        scales: factors of the size at which the image is shown; probabilities are averaged over them.
        flip: show each of them mirrored, too.

    Raises:
        ValueError: a size or a factor is not positive, or windows would leave gaps.
    """

    def __init__(
        self,
        short_side: int | None = None,
        long_side: int | None = None,
        crop: int | None = None,
        stride: int | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
    ) -> None:
        for name, value in {"short_side": short_side, "long_side": long_side, "crop": crop, "stride": stride}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least one pixel, got {value}")
        if long_side is not None and short_side is None:
            raise ValueError(f"long_side={long_side} limits short_side, which is missing")
        if stride is not None and (crop is None or stride > crop):
            raise ValueError(f"stride={stride} leaves gaps between windows of crop={crop} pixels")
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales must hold positive factors, got {tuple(scales)}")
        self.short_side = short_side
        self.long_side = long_side
        self.crop = crop
        self.stride = stride or (None if crop is None else max(2 * crop // 3, 1))
        self.scales = tuple(scales)
        self.flip = flip

    def __call__(self, predict: Predict, image: Tensor, size: Sequence[int]) -> tuple[Tensor, bool]:
        """Score the pixels of an image.

        Args:
            predict: maps images ``[1, C, h, w]`` to logits ``[1, K, h, w]``.
            image: ``[1, C, H, W]``.
            size: rows and columns of the result.

        Returns:
            Scores ``[1, K, *size]``, and whether they are logits: of several views they are probabilities.
        """
        views = [(scale, mirrored) for scale in self.scales for mirrored in ((False, True) if self.flip else (False,))]
        if len(views) == 1:
            return self._logits(predict, image, size, *views[0]), True
        total = torch.zeros((), device=image.device)
        for scale, mirrored in views:
            total = total + self._logits(predict, image, size, scale, mirrored).softmax(1)
        return total / len(views), False

    def _logits(self, predict: Predict, image: Tensor, size: Sequence[int], scale: float, mirrored: bool) -> Tensor:
        view = resize(image, self._view_size(image.shape[2:], scale))
        view = view.flip(-1) if mirrored else view
        if self.crop is None or self.stride is None:
            logits = predict(view)
        else:
            logits = predict_in_windows(predict, view, self.crop, self.stride)
        return resize(logits.flip(-1) if mirrored else logits, size)

    def _view_size(self, sides: Sequence[int], scale: float) -> list[int]:
        if self.short_side is not None:
            factor = self.short_side / min(sides)
            if self.long_side is not None:
                factor = min(factor, self.long_side / max(sides))
            scale = scale * factor
        return [max(round(side * scale), 1) for side in sides]


def predict_in_windows(predict: Predict, image: Tensor, crop: int, stride: int) -> Tensor:
    """Predict square windows that cover the image, and average the predictions where windows overlap.

    The last window of a row or column is moved inwards to end at the image's edge. Where the image is smaller than a
    window, its whole side is taken.

    Args:
        predict: maps a window ``[1, C, h, w]`` to its prediction ``[1, K, h, w]``.
        image: ``[1, C, H, W]``.
        crop: side of a window, pixels.
        stride: pixels from one window to the next, at most ``crop``.

    Returns:
        The prediction ``[1, K, H, W]``.
    """
    height, width = image.shape[2:]
    total = image.new_zeros(())
    count = image.new_zeros((height, width))
    for top in window_starts(height, crop, stride):
        for left in window_starts(width, crop, stride):
            place = (..., slice(top, top + crop), slice(left, left + crop))
            prediction = predict(image[place])
            if not total.ndim:
                total = prediction.new_zeros((*prediction.shape[:2], height, width))
            total[place] += prediction
            count[place] += 1
    return total / count


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps bilinearly.

    Args:
        x: maps ``[B, C, h, w]``.
        size: rows and columns of the result.
    """
    size = tuple(size)
    return x if x.shape[2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def window_starts(length: int, crop: int, stride: int) -> list[int]:
    """Where the windows along one side begin."""
    last = max(length - crop, 0)
    return [*range(0, last, stride), last]
