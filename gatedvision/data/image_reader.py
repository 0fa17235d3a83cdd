"""Any image file as 8-bit RGB."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


class UnreadableImageError(ValueError):
    """An image file that cannot be decoded; the message names it."""


def read_image(path: str | Path) -> Image.Image:
    """Read an image file as upright 8-bit RGB.

    The EXIF orientation is applied, transparency is laid over white, 16-bit grey is scaled to 8 bits (a plain
    conversion would clip it), and every other mode (grey, palette, CMYK, ...) is converted.

    Args:
        path: image file of any format Pillow reads.

    Returns:
        Image of mode ``RGB``, values 0-255.

    Raises:
        UnreadableImageError: the file is missing, truncated, no image, or of floating-point pixels.
    """
    try:
        with Image.open(path) as image:
            # Turn only after a successful load: a broken EXIF block must not hide a broken image.
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split()).replace(f"'{path}'", "").strip()
        raise UnreadableImageError(f"cannot read image '{path}': {reason}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB, as :func:`read_image` says.

    Args:
        image: loaded, and upright.

    Raises:
        ValueError: its pixels are of floating point.
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        return Image.fromarray(_scale_16_bit(np.asarray(image))).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; store the image with 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _scale_16_bit(pixels: np.ndarray) -> np.ndarray:
    # Pillow gives 16-bit files as "I;16" or, depending on the format, as 32-bit "I" with the same values.
    return (pixels.clip(0, 65535).astype(np.uint32) * 255 // 65535).astype(np.uint8)
