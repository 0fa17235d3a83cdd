"""Images as users hold them: numpy arrays, PIL images and tensors, taken apart and put together again."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gatedvision.inpainting.pixels import Pixels

_PIL_MODES = ("1", "L", "LA", "RGB", "RGBA", "CMYK", "I", "I;16", "I;16B", "I;16L", "I;16N")
Assemble = Callable[[list[Pixels]], Any]


def take_apart(image: Any) -> tuple[list[Pixels], Assemble]:
    """Copy the pixels out of an image or a batch.

    Args:
        image: array ``[H, W]`` or ``[H, W, C]``, tensor ``[C, H, W]`` or ``[B, C, H, W]``, with 1, 3 or 4 channels, or
            PIL image.

    Returns:
        The pixels of each image, and a function that makes of them what was given: same type, shape, dtype and device.

    Raises:
        ValueError: the shape, the mode or a value is none of an image.
        TypeError: the type or dtype is none of an image.
    """
    if isinstance(image, Image.Image):
        pixels, assemble = from_pil(image)
        return [pixels], lambda filled: assemble(filled[0])
    if isinstance(image, np.ndarray):
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
            raise ValueError(f"an image array is [H, W] or [H, W, C] with 1, 3 or 4 channels, got {list(image.shape)}")
        values = image[..., None] if image.ndim == 2 else image
        return [Pixels(values.copy(order="C"))], lambda filled: filled[0].values.reshape(image.shape)
    if isinstance(image, Tensor):
        return _from_tensor(image)
    raise TypeError(f"an image is a numpy array, a PIL image or a tensor, not {type(image).__name__}")


def from_pil(image: Image.Image) -> tuple[Pixels, Callable[[Pixels], Image.Image]]:
    """Copy the pixels out of a PIL image.

    Args:
        image: of mode 1, L, LA, RGB, RGBA, CMYK, I;16, I (of 16-bit values), or P. A palette, or one colour that means
            transparency, cannot hold what is filled in: the image becomes RGB, or RGBA.

    Returns:
        The pixels, and a function that makes an image of them.

    Raises:
        ValueError: another mode, or values beyond 16 bits.
    """
    if image.mode in ("P", "PA") or (image.mode in ("1", "L", "RGB") and image.has_transparency_data):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode not in _PIL_MODES:
        raise ValueError(f"no inpainting in mode {image.mode}; convert the image to RGB, or to 16-bit grey (I;16)")
    values = np.array(image)
    if image.mode == "I":
        if values.size and not 0 <= values.min() <= values.max() <= 65535:
            raise ValueError(f"values of a mode I image are 0 to 65535, got {values.min()} to {values.max()}")
        values = values.astype(np.uint16)

    def assemble(filled: Pixels) -> Image.Image:
        result = to_pil(filled)
        result = result.convert("I") if image.mode == "I" else result
        result.info = {name: value for name, value in image.info.items() if name != "transparency"}
        return result

    return Pixels(values if values.ndim == 3 else values[..., None], cmyk=image.mode == "CMYK"), assemble


def to_pil(pixels: Pixels) -> Image.Image:
    """Make a PIL image of pixels.

    Args:
        pixels: of a mode that Pillow has.
    """
    if pixels.cmyk:
        # An array of four channels would be taken for RGBA.
        return Image.frombytes("CMYK", (pixels.size[1], pixels.size[0]), pixels.values.tobytes())
    return Image.fromarray(pixels.values[..., 0] if pixels.values.shape[2] == 1 else pixels.values)


def _from_tensor(image: Tensor) -> tuple[list[Pixels], Assemble]:
    if image.ndim not in (3, 4) or image.shape[-3] not in (1, 3, 4) or not image.numel():
        raise ValueError(
            f"an image tensor is [C, H, W] or [B, C, H, W] with 1, 3 or 4 channels, got {list(image.shape)}"
        )
    batch = image.detach().cpu()
    batch = (batch.float() if batch.dtype == torch.bfloat16 else batch).numpy().reshape(-1, *image.shape[-3:])

    def assemble(filled: list[Pixels]) -> Tensor:
        values = np.stack([pixels.values.transpose(2, 0, 1) for pixels in filled])
        return torch.from_numpy(values).reshape(image.shape).to(image.device, image.dtype)

    return [Pixels(planes.transpose(1, 2, 0).copy()) for planes in batch], assemble
