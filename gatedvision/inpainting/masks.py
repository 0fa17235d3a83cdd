"""Where the hole is, from masks of any kind.

A pixel belongs to the hole where the mask is above a threshold, a fraction of its full scale and one half by default:
``True`` of a boolean mask, above 127.5 of 8 bits, above 32,767.5 of 16 bits, above 0.5 of floats. Integer masks without
a value above 1 hold zeros and ones, and there 1 is the hole. Of coloured masks the brightest channel counts, of masks
with an alpha channel what they show on black.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gatedvision.inpainting.options import Options
from gatedvision.inpainting.pixels import Pixels, full_scale


def read_holes(mask: Any, count: int, options: Options) -> list[np.ndarray]:
    """Find the holes that a mask marks.

    Args:
        mask: array ``[H, W]`` or ``[H, W, C]`` with 1, 3 or 4 channels, PIL image, or tensor ``[H, W]``, ``[B, H, W]``
            or ``[B, 1, H, W]``; one mask serves all images.
        count: number of images.
        options: threshold and inversion.

    Returns:
        For each image ``[H, W]``, true where it is unknown.

    Raises:
        ValueError: the shape or a value is none of a mask.
        TypeError: it is something else.
    """
    masks = _mask_values(mask)
    if len(masks) not in (1, count):
        raise ValueError(f"{len(masks)} masks for {count} images; give one for all, or one for each")
    holes = [(values > options.threshold * _full_scale(values)) != options.invert for values in masks]
    return holes * count if len(holes) == 1 else holes


def transparent_hole(pixels: Pixels, options: Options) -> np.ndarray:
    """Take transparency for the mask.

    Args:
        pixels: an image with an alpha channel.
        options: threshold, of transparency, and inversion.

    Returns:
        ``[H, W]``, true in the hole.

    Raises:
        ValueError: the image has no alpha channel.
    """
    if not pixels.has_alpha:
        raise ValueError("the image has no transparency that could be the hole; give a mask")
    return (pixels.transparency() > options.threshold * pixels.full_scale) != options.invert


def _full_scale(values: np.ndarray) -> int:
    if not values.size:
        raise ValueError(f"the mask has no pixels, its shape is {list(values.shape)}")
    if values.dtype == bool:
        return 1
    if values.dtype.kind not in "uif":
        raise TypeError(f"mask of dtype {values.dtype}; give booleans, integers or floats from 0 to 1")
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        row, column = np.argwhere(~np.isfinite(values))[0].tolist()
        raise ValueError(f"the mask is {values[row, column]:g} at row {row}, column {column}")
    limits = [1] if values.dtype.kind == "f" else [1, 255, 65535]
    if values.dtype == np.uint16 and high > 1:
        return 65535
    fitting = [limit for limit in limits if high <= limit]
    if low < 0 or not fitting:
        wanted = "floats from 0 to 1" if values.dtype.kind == "f" else "integers from 0 to 1, 255 or 65535"
        raise ValueError(f"masks hold {wanted}, got values from {low:g} to {high:g}")
    return fitting[0]


def _mask_values(mask: Any) -> list[np.ndarray]:
    """The masks as ``[H, W]`` each, channels put together.

    Raises:
        ValueError: the shape is none of a mask.
        TypeError: neither is the type.
    """
    if isinstance(mask, Image.Image):
        return [_one_channel(_picture_values(mask))]
    if isinstance(mask, np.ndarray):
        if mask.ndim not in (2, 3) or (mask.ndim == 3 and mask.shape[2] not in (1, 3, 4)):
            raise ValueError(f"a mask array is [H, W] or [H, W, C] with 1, 3 or 4 channels, got {list(mask.shape)}")
        return [_one_channel(mask.reshape(*mask.shape[:2], -1) if mask.size else mask[..., None])]
    if isinstance(mask, Tensor):
        values = mask.detach().cpu()
        values = values[:, 0] if values.ndim == 4 and values.shape[1] == 1 else values
        if values.ndim not in (2, 3):
            raise ValueError(f"a mask tensor is [H, W], [B, H, W] or [B, 1, H, W], got {list(mask.shape)}")
        return list(
            (values.float() if values.dtype == torch.bfloat16 else values).numpy().reshape(-1, *values.shape[-2:])
        )
    raise TypeError(f"a mask is a numpy array, a PIL image or a tensor, not {type(mask).__name__}")


def _picture_values(mask: Image.Image) -> np.ndarray:
    if mask.mode not in ("1", "L", "LA", "RGB", "RGBA", "F") and not mask.mode.startswith("I"):
        mask = mask.convert("RGBA" if mask.has_transparency_data else "RGB")
    values = np.asarray(mask)
    return values.reshape(*values.shape[:2], -1)


def _one_channel(values: np.ndarray) -> np.ndarray:
    channels = values.shape[2]
    if channels % 2:
        return values.max(axis=2)
    white = full_scale(values.dtype)
    shown = values[..., :-1].max(axis=2) * (values[..., -1] / white)
    return (shown if values.dtype.kind == "f" else np.rint(shown)).astype(values.dtype)
