"""An image's own values, of which windows are shown as RGB and filled from RGB."""

import numpy as np

from gatedvision.inpainting.cmyk import ink_to_rgb, rgb_to_ink
from gatedvision.inpainting.windows import Window

# Weights of red, green and blue in grey, those of Pillow's mode L (ITU-R 601).
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
# Resampling overshoots a little, and such images are no mistake.
_OVERSHOOT = 0.1


class Pixels:
    """Values of an image in its own channels and bit depth; what is not filled is never touched.

    Filled pixels become opaque where the image has an alpha channel.

    Args:
        values: ``[H, W, C]`` with 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 channels (RGB, alpha), ``uint8``, ``uint16``,
            ``bool`` or floats from 0 to 1; changed in place.
        cmyk: the four channels are inks.

    Raises:
        ValueError: there are no pixels, or another number of channels.
        TypeError: another dtype.
    """

    def __init__(self, values: np.ndarray, cmyk: bool = False) -> None:
        if values.ndim != 3 or not 1 <= values.shape[2] <= 4 or 0 in values.shape:
            raise ValueError(f"an image has height, width and 1 to 4 channels, all positive, got shape {values.shape}")
        self.values = values
        self.cmyk = cmyk
        self.full_scale = full_scale(values.dtype)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def has_alpha(self) -> bool:
        """Whether the last channel is transparency."""
        return self.values.shape[2] in (2, 4) and not self.cmyk

    @property
    def mode(self) -> str:
        """Pillow's name of the mode; 16-bit colour, which Pillow lacks, is ``RGB;16`` or ``RGBA;16``.

        Raises:
            TypeError: Pillow and image files have no such values.
        """
        if self.cmyk:
            return "CMYK"
        names = {"b": {1: "1"}, "u1": {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}}
        names["u2"] = {1: "I;16", 3: "RGB;16", 4: "RGBA;16"}
        kind = "b" if self.values.dtype == bool else f"{self.values.dtype.kind}{self.values.dtype.itemsize}"
        try:
            return names[kind][self.values.shape[2]]
        except KeyError as error:
            raise TypeError(f"no image mode for {self.values.shape[2]} channels of {self.values.dtype}") from error

    def transparency(self) -> np.ndarray:
        """Transparency as a mask of the image's own dtype, ``[H, W]``, full scale where it is fully transparent."""
        return self.full_scale - self.values[..., -1]

    def check_known(self, hole: np.ndarray) -> None:
        """Refuse known floats that are no colour; inside the hole anything goes.

        Args:
            hole: ``[H, W]``, true where the image is unknown.

        Raises:
            ValueError: a known pixel is NaN, infinite, or far outside 0 to 1.
        """
        if self.values.dtype.kind != "f":
            return
        with np.errstate(invalid="ignore"):
            bad = ~(np.abs(self.values - 0.5) <= 0.5 + _OVERSHOOT).all(axis=2) & ~hole
        if bad.any():
            row, column = np.argwhere(bad)[0].tolist()
            pixel = self.values[row, column]
            remedy = "mark it in the mask" if not np.isfinite(pixel).all() else "floats are 0 to 1, so scale the image"
            shown = ", ".join(f"{value:g}" for value in pixel.tolist())
            raise ValueError(f"the known pixel at row {row}, column {column} is ({shown}); {remedy}")

    def rgb(self, window: Window) -> np.ndarray:
        """Show a window as RGB.

        Args:
            window: where.

        Returns:
            ``[h, w, 3]`` float32, 0 to 1 but for NaN in a float image's hole.
        """
        values = self.values[window.slices]
        if self.cmyk:
            return ink_to_rgb(values)
        colour = values[..., :-1] if self.has_alpha else values
        scaled = (colour.astype(np.float32) / np.float32(self.full_scale)).clip(0, 1)
        return np.broadcast_to(scaled, (*scaled.shape[:2], 3))

    def fill(self, window: Window, where: np.ndarray, rgb: np.ndarray, known: np.ndarray) -> None:
        """Write colours into pixels of a window.

        Args:
            window: where.
            where: ``[h, w]``, true for the pixels to write.
            rgb: ``[h, w, 3]``, 0 to 1.
            known: ``[h, w]``, true where the image is known: filled inks are mixed as there.
        """
        values = self.values[window.slices]
        colours = rgb[where]
        if self.cmyk:
            values[where] = rgb_to_ink(colours, values[known])
            return
        if values.shape[2] < 3:
            colours = (colours @ _LUMA[:, None]).clip(0, 1)
        if self.values.dtype == bool:
            encoded = colours > 0.5
        elif self.values.dtype.kind == "f":
            encoded = colours
        else:
            encoded = np.rint(colours * self.full_scale)
        if self.has_alpha:
            encoded = np.concatenate([encoded, np.full_like(encoded[:, :1], self.full_scale)], axis=1)
        values[where] = encoded.astype(values.dtype)


def full_scale(dtype: np.dtype) -> int:
    """Return the value of white.

    Args:
        dtype: of an image.

    Raises:
        TypeError: images have another dtype.
    """
    if dtype.kind in "bf":
        return 1
    if dtype.kind == "u" and dtype.itemsize <= 2:
        return 2 ** (8 * dtype.itemsize) - 1
    raise TypeError(f"image of dtype {dtype}; convert it to uint8, uint16 or floats from 0 to 1")
