"""The Python call: ``gatedvision.inpaint(image, mask, model)``."""

import warnings
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from gatedvision.inpainting.filling import fill_hole, grow_hole
from gatedvision.inpainting.image_types import take_apart
from gatedvision.inpainting.masks import read_holes, transparent_hole
from gatedvision.inpainting.options import Options

ImageT = TypeVar("ImageT", np.ndarray, Image.Image, Tensor)


def inpaint(
    image: ImageT,
    mask: np.ndarray | Image.Image | Tensor | None = None,
    model: nn.Module | str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    threshold: float = 0.5,
    invert: bool = False,
    dilate: int = 0,
    max_size: int = 512,
    amp: str | None = None,
) -> ImageT:
    """Fill the hole of an image; known pixels come back bit by bit as they were.

    Holes up to half of ``max_size`` wide are filled at full resolution, see :mod:`gatedvision.inpainting.windows`.
    An EXIF orientation in a PIL image is left alone: the mask belongs to the pixels as they lie.

    Args:
        image: array ``[H, W]`` or ``[H, W, C]``, tensor ``[C, H, W]`` or ``[B, C, H, W]``, each with 1 (grey), 3 (RGB)
            or 4 channels (RGB, alpha), of uint8, uint16 or floats from 0 to 1; or a PIL image. Filled pixels become
            opaque.
        mask: what to fill, of the image's height and width: array, PIL image, or tensor ``[H, W]``, ``[B, H, W]`` or
            ``[B, 1, H, W]``, whatever the image is; see :mod:`gatedvision.inpainting.masks` for which values count.
            ``None`` fills where the image is transparent.
        model: the network, or a file of weights for ``deepfillv2``; loading takes longer than a small hole, so load
            once for many images.
        device: where to run, and where the network is moved; where it is by default, which for a file is the CPU.
        threshold: fraction of the mask's full scale above which a pixel is hole.
        invert: the mask marks what is known.
        dilate: pixels by which the hole grows first.
        max_size: longest side the network is run at, pixels.
        amp: precision of the network, ``"bf16"``, ``"fp16"`` or ``None`` for full.

    Returns:
        The filled image, of the same type, shape, dtype, mode and device; a palette image becomes RGB or RGBA. It is
        equal to the given one, with a warning, where the mask is empty.

    Raises:
        ValueError: image and mask do not fit, everything is hole, a known pixel is no colour, or there are no weights.
        TypeError: an argument has another type than those above.
    """
    options = Options(threshold, invert, dilate, max_size, amp)
    images, assemble = take_apart(image)
    if mask is None:
        holes = [transparent_hole(pixels, options) for pixels in images]
    else:
        holes = read_holes(mask, len(images), options)
    network, place = _network(model, device)
    windows = 0
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        for pixels, hole in zip(images, holes, strict=True):
            windows += fill_hole(pixels, grow_hole(hole, dilate), network, place, options)
    finally:
        for module, training in modes:
            module.training = training
    if not windows:
        warnings.warn("the mask is empty: the image is returned unchanged", stacklevel=2)
    return assemble(images)


def _network(model: nn.Module | str | Path | None, device: str | torch.device | None) -> tuple[nn.Module, torch.device]:
    if not isinstance(model, nn.Module):
        from gatedvision.inpainting.weights import load_generator  # brings mmengine along

        model = load_generator(model)
    if device is not None:
        model = model.to(device)
    tensor = next(model.parameters(), None)
    return model, torch.device(device or "cpu") if tensor is None else tensor.device
