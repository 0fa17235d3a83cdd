"""Run the network on windows of an image and write what it makes of the hole."""

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedvision.inpainting.options import AMP_DTYPES, Options
from gatedvision.inpainting.pixels import Pixels
from gatedvision.inpainting.windows import MULTIPLE, Plan


def grow_hole(hole: np.ndarray, pixels: int) -> np.ndarray:
    """Grow a hole by a disc.

    Args:
        hole: ``[H, W]`` bool.
        pixels: radius.
    """
    import cv2  # not with the package, whose import is to stay cheap

    if not pixels:
        return hole
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    return cv2.dilate(hole.astype(np.uint8), disc).astype(bool)


def fill_hole(
    pixels: Pixels,
    hole: np.ndarray,
    model: nn.Module,
    device: torch.device,
    options: Options,
    on_step: Callable[[int, int], None] | None = None,
) -> int:
    """Fill the hole of an image in place.

    Args:
        pixels: the image.
        hole: ``[H, W]``, true where it is unknown.
        model: the network, in evaluation mode on the device.
        device: where it is.
        options: size limit and precision.
        on_step: called with the number of windows done and of all windows.

    Returns:
        The number of windows shown to the network.

    Raises:
        ValueError: mask and image differ in size, everything is hole, a known pixel is no colour, or the network's
            answer is not finite or does not fit into memory.
    """
    if hole.shape != pixels.size:
        raise ValueError(f"the mask is {_sizes(hole.shape)}, the image {_sizes(pixels.size)}; they have to agree")
    pixels.check_known(hole)
    if not hole.any():
        return 0
    if hole.all():
        raise ValueError("the mask covers the whole image, so that nothing is left to fill it from; is it inverted?")
    return _Filler(model, device, options).run(pixels, hole, on_step)


class _Filler:
    """A network and how to run it."""

    def __init__(self, model: nn.Module, device: torch.device, options: Options) -> None:
        self.model = model
        self.device = device
        self.options = options

    def run(
        self,
        pixels: Pixels,
        hole: np.ndarray,
        on_step: Callable[[int, int], None] | None = None,
        may_reduce: bool = True,
    ) -> int:
        """Fill the hole and return the number of windows."""
        unknown = hole.copy()
        plan = Plan(hole, self.options.max_size, may_reduce)
        for done, step in enumerate(plan.steps, start=1):
            mask = unknown[step.window.slices]
            rgb = torch.from_numpy(pixels.rgb(step.window).transpose(2, 0, 1).copy())
            filled = self._reduced(rgb, mask, step.factor) if step.factor < 1 else self._window(rgb, mask)
            where = plan.pixels_to_fill(step)
            pixels.fill(step.window, where, filled.permute(1, 2, 0).numpy(), known=~mask)
            # Later windows see what was filled, so that pieces of one hole meet without a seam.
            mask &= ~where
            if on_step is not None:
                on_step(done, len(plan.steps))
        return len(plan.steps)

    def _window(self, rgb: Tensor, hole: np.ndarray) -> Tensor:
        """What the network makes of ``rgb`` ``[3, h, w]``, 0 to 1, with the hole ``[h, w]``.

        Raises:
            ValueError: it is not finite or does not fit into memory.
        """
        mask = torch.from_numpy(hole)
        height, width = mask.shape
        padding = (0, -width % MULTIPLE, 0, -height % MULTIPLE)
        # A hole may hold anything, NaN too.
        image = F.pad(torch.where(mask, 0.0, rgb * 2 - 1)[None], padding, mode="replicate")
        padded_mask = F.pad(mask[None, None].float(), padding, mode="replicate")
        amp = self.options.amp
        precision = nullcontext() if amp is None else torch.autocast(self.device.type, AMP_DTYPES[amp])
        try:
            with torch.inference_mode(), precision:
                dtype = next((parameter.dtype for parameter in self.model.parameters()), torch.float32)
                _, refined = self.model(image.to(self.device, dtype), padded_mask.to(self.device, dtype))
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"{self.device} ran out of memory at a window of {_sizes(hole.shape)}; lower the size limit, now "
                f"{self.options.max_size}, or take another device"
            ) from error
        refined = refined[0, :, :height, :width].float().cpu()
        if not refined[:, mask].isfinite().all():
            remedy = f"without amp {amp}, whose range may be too small" if amp else "with other weights"
            raise ValueError(f"the network's answer is not finite; try {remedy}")
        return (refined.clamp(-1, 1) + 1) / 2

    def _reduced(self, rgb: Tensor, hole: np.ndarray, factor: float) -> Tensor:
        """The same of a window that is reduced before and enlarged after."""
        height, width = (max(round(side * factor / MULTIPLE), 1) * MULTIPLE for side in hole.shape)
        mask = torch.from_numpy(hole)
        # Average the known pixels of each cell only, so that what the hole holds does not leak out of it.
        known = F.adaptive_avg_pool2d((~mask).float()[None], (height, width))
        small = F.adaptive_avg_pool2d(torch.where(mask, 0.0, rgb), (height, width)) / known.clamp_min(1e-6)
        pixels = Pixels(small.permute(1, 2, 0).numpy().copy())
        # Something stays known, however little of it there is.
        self.run(pixels, (known[0] < min(0.5, known.max().item())).numpy(), may_reduce=False)
        filled = torch.from_numpy(pixels.values).permute(2, 0, 1)[None]
        return F.interpolate(filled, hole.shape, mode="bicubic", align_corners=False)[0].clamp_(0, 1)


def _sizes(size: tuple[int, ...]) -> str:
    return f"{size[1]} pixels wide and {size[0]} high"
