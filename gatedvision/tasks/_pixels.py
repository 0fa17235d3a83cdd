"""Images of a task as pixels that can be drawn."""

import torch
from torch import Tensor


def to_bytes(image: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return an image as bytes, whatever it is normalised by.

    Args:
        image: ``[C, H, W]``, bytes, or numbers, normalised by ``mean`` and ``std`` if it has as many channels.
        mean: ``[3, 1, 1]``, on any device.
        std: as ``mean``.
    """
    if image.dtype == torch.uint8:
        return image
    # Grey images are not normalised by three means.
    if len(image) == len(mean):
        image = image * std.to(image) + mean.to(image)
    return image.mul(255).round().clamp(0, 255).byte()
