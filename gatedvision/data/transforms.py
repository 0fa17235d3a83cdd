"""timm's image transforms, working with every version of Pillow."""

from collections.abc import Iterator
from typing import Any

import timm.data
from PIL import Image
from timm.data.auto_augment import AugmentOp, posterize


def create_transform(*args: Any, **kwargs: Any) -> Any:
    """Build a transform like ``timm.data.create_transform``, whose policies of augmentation run on any Pillow.

    At their greatest strength those policies keep 0 bits of a colour, which makes the image black and is part of the
    published recipes: one image in 660 of ``"rand-m9-mstd0.5-inc1"``. timm 1.0.31 leaves that to
    ``PIL.ImageOps.posterize``, which refuses 0 bits since Pillow 13.

    Args:
        *args: arguments of ``timm.data.create_transform``.
        **kwargs: likewise.

    Returns:
        The transform; with ``separate=True``, three of them.
    """
    transform = timm.data.create_transform(*args, **kwargs)
    for operation in _augment_ops(transform):
        if operation.aug_fn is posterize:
            operation.aug_fn = _posterize
    return transform


def _augment_ops(transform: Any) -> Iterator[AugmentOp]:
    """Find the operations of RandAugment, AutoAugment or AugMix in a transform, however deep they lie."""
    if isinstance(transform, AugmentOp):
        yield transform
    elif isinstance(transform, list | tuple):
        for part in transform:
            yield from _augment_ops(part)
    else:
        for name in ("transforms", "policy", "ops"):
            yield from _augment_ops(getattr(transform, name, ()))


def _posterize(image: Image.Image, bits_to_keep: int, **options: Any) -> Image.Image:
    if bits_to_keep == 0:
        return Image.new(image.mode, image.size)
    return posterize(image, bits_to_keep, **options)
