"""Masks of objects as COCO stores them: polygons and run-length encodings."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from gatedvision.data.coco_annotations import CocoImage, Segmentation


def decode_masks(segmentations: Sequence[Segmentation | None], image: CocoImage, source: str) -> np.ndarray:
    """Draw masks.

    Args:
        segmentations: of one object each: polygons ``[x, y, x, y, ...]`` in pixels, or a run-length encoding.
        image: the image they belong to.
        source: the file of the annotations, for messages.

    Returns:
        uint8 ``[N, H, W]``, 1 inside.

    Raises:
        ValueError: a segmentation is missing, damaged, or of another size.
        ModuleNotFoundError: faster-coco-eval is not installed.
    """
    api = mask_api()
    masks = np.zeros((len(segmentations), image.height, image.width), dtype=np.uint8)
    for mask, segmentation in zip(masks, segmentations, strict=True):
        try:
            mask[:] = api.decode(_to_rle(segmentation, image, api))
        except Exception as error:  # the C++ side raises whatever the damage makes of it
            reason = "it has none" if segmentation is None else str(error)
            raise ValueError(
                f"cannot draw the mask of an object in image {image.id} of {source}: {reason}; "
                "detectors of boxes alone need with_masks=False"
            ) from error
    return masks


def encode_masks(masks: np.ndarray) -> list[dict[str, Any]]:
    """Compress masks.

    Args:
        masks: ``[N, H, W]``, not zero inside.

    Returns:
        Run-length encodings, in COCO's compressed form.

    Raises:
        ModuleNotFoundError: faster-coco-eval is not installed.
    """
    # Runs go down the columns.
    return mask_api().encode(np.asfortranarray(masks.transpose(1, 2, 0) != 0, dtype=np.uint8))


def mask_api() -> ModuleType:
    """Import the mask functions of faster-coco-eval.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        from faster_coco_eval.core import mask
    except ModuleNotFoundError as error:
        message = "COCO masks and metrics need faster-coco-eval: pip install 'gatedvision[detection]'"
        raise ModuleNotFoundError(message, name=error.name) from error
    return mask


def _to_rle(segmentation: Segmentation | None, image: CocoImage, api: Any) -> Any:
    if isinstance(segmentation, list):
        return api.merge(api.frPyObjects(segmentation, image.height, image.width))
    if not isinstance(segmentation, dict):
        raise TypeError(f"expected polygons or a run-length encoding, got {type(segmentation).__name__}")
    if list(segmentation["size"]) != [image.height, image.width]:
        raise ValueError(f"it is of {segmentation['size']} pixels, the image of {[image.height, image.width]}")
    if isinstance(segmentation["counts"], list):
        if sum(segmentation["counts"]) != image.height * image.width:
            raise ValueError(f"its runs cover {sum(segmentation['counts'])} of {image.height * image.width} pixels")
        return api.frPyObjects(segmentation, image.height, image.width)
    return segmentation
