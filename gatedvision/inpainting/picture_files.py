"""Image files in their own mode and bit depth, and back, with what viewers need to show them alike."""

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from gatedvision.data.image_reader import UnreadableImageError
from gatedvision.inpainting.image_types import from_pil, to_pil
from gatedvision.inpainting.pixels import Pixels

_ORIENTATION = 0x0112
_COLOUR = {"RGB", "RGBA"}
_DEEP = {"I;16", "RGB;16", "RGBA;16"}
# What each format can hold; all but JPEG without loss.
_MODES = {
    "PNG": {"1", "L", "LA"} | _COLOUR | _DEEP,
    "TIFF": {"1", "L", "LA", "CMYK"} | _COLOUR | _DEEP,
    "WEBP": _COLOUR,
    "BMP": {"1", "L", "RGB"},
    "JPEG": {"L", "RGB", "CMYK"},
}
_FORMATS = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP", ".bmp": "BMP"}
_FORMATS |= {".jpg": "JPEG", ".jpeg": "JPEG"}
_OPTIONS: dict[str, dict[str, Any]] = {
    "WEBP": {"lossless": True, "exact": True},
    "JPEG": {"quality": 95, "subsampling": 0},
    "TIFF": {"compression": "tiff_lzw"},
}
# The pictures people fill are their own, and larger than what Pillow takes for an attack.
_MAX_PIXELS = 2**30


@dataclass
class Picture:
    """An upright image and what its file says about it.

    Args:
        pixels: the image.
        info: ``icc_profile``, ``exif`` (without orientation) and ``dpi``, as far as they are known.
        frames: images in the file, of which this is the first.
        turned: whether upright its sides are swapped.
    """

    pixels: Pixels
    info: dict[str, Any] = field(default_factory=dict)
    frames: int = 1
    turned: bool = False


def read_picture(path: Path) -> Picture:
    """Read an image file upright, in its own mode and bit depth.

    Args:
        path: any format Pillow reads; PNG, TIFF and PPM keep 16 bits in colour too.

    Returns:
        The picture. Palettes become RGB, or RGBA with transparency.

    Raises:
        UnreadableImageError: the file is missing, damaged, no image, or of a mode that cannot be filled.
    """
    with _opened(path, "image") as image:
        deep = _is_deep_colour(image)
        image.load()
        orientation = image.getexif().get(_ORIENTATION, 1)
        upright = ImageOps.exif_transpose(image)
        kept = {name: upright.info[name] for name in ("icc_profile", "exif", "dpi") if upright.info.get(name)}
        pixels = _read_deep_colour(path, orientation) if deep else from_pil(upright)[0]
        # Cameras store previews behind a photo, which makes it an MPO file.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        return Picture(pixels, kept, frames, turned=orientation in (5, 6, 7, 8))


def read_mask(path: Path) -> Image.Image:
    """Read a mask file upright.

    Args:
        path: any format Pillow reads.

    Raises:
        UnreadableImageError: the file is missing, damaged or no image.
    """
    with _opened(path, "mask") as image:
        image.load()
        return ImageOps.exif_transpose(image)


def natural_suffix(path: Path) -> str:
    """Return the suffix of the lossless format that suits an image: its own, PNG, or TIFF for CMYK.

    Args:
        path: the image.
    """
    if path.suffix.lower() in (".png", ".tif", ".tiff"):
        return path.suffix
    try:
        with Image.open(path) as image:
            return ".tif" if image.mode == "CMYK" else ".png"
    except Exception:  # reading it in earnest will say what is wrong
        return ".png"


def file_format(path: Path) -> str:
    """Return the format that the name of a file to write stands for.

    Args:
        path: the file.

    Raises:
        ValueError: none that can be written.
    """
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError as error:
        raise ValueError(f"cannot write '{path}': name it {', '.join(_FORMATS)}") from error


def write_picture(picture: Picture, path: Path) -> list[str]:
    """Write a picture whole or not at all.

    Args:
        picture: the picture.
        path: the file, whose suffix says the format.

    Returns:
        What the file lacks of the picture, a phrase each.

    Raises:
        ValueError: the format cannot hold the picture's mode.
    """
    name, mode = file_format(path), picture.pixels.mode
    if mode not in _MODES[name]:
        able = " or ".join(other for other, modes in _MODES.items() if mode in modes)
        raise ValueError(f"cannot write '{path}': {name} does not hold images of mode {mode}, {able} does")
    missing = ["known pixels are recompressed, JPEG being lossy"] if name == "JPEG" else []
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        if mode in ("RGB;16", "RGBA;16"):
            unfinished.write_bytes(_encode_deep_colour(picture, name))
            if name != "PNG" and picture.info.get("icc_profile"):
                missing.append("the colour profile is left out, which in 16-bit colour only PNG keeps")
        else:
            info = dict(picture.info)
            if name in ("TIFF", "BMP"):
                # The tags of one file, laid over those of another, would contradict its layout.
                info.pop("exif", None)
            to_pil(picture.pixels).save(unfinished, name, **_OPTIONS.get(name, {}), **info)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return missing


@contextmanager
def _opened(path: Path, what: str) -> Iterator[Image.Image]:
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, _MAX_PIXELS
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split()).replace(f"'{path}'", "").strip()
        raise UnreadableImageError(f"cannot read {what} '{path}': {reason}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether this is 16-bit colour, which Pillow reads as 8-bit. Only its raw mode tells, until it is loaded."""
    if image.mode not in ("RGB", "RGBA", "LA") or not image.tile:
        return False
    arguments: Any = image.tile[0][3]
    if image.format == "PPM":
        return isinstance(arguments, tuple) and arguments[-1] == 65535
    return ";16" in str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _read_deep_colour(path: Path, orientation: int) -> Pixels:
    import cv2

    if orientation != 1 and path.suffix.lower() != ".png":
        raise ValueError("16-bit colour that is to be turned (EXIF orientation) is read from PNG only; turn it first")
    values = cv2.imdecode(np.frombuffer(path.read_bytes(), dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16:
        raise ValueError("16-bit colour that OpenCV cannot read")
    order = [2, 1, 0, 3][: values.shape[2]]
    return Pixels(np.ascontiguousarray(_turn(values[..., order], orientation)))


def _turn(values: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation, 1 to 8, to ``[H, W, C]``."""
    if orientation in (5, 6, 7, 8):
        values = values.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def _encode_deep_colour(picture: Picture, name: str) -> bytes:
    import cv2

    order = [2, 1, 0, 3][: picture.pixels.values.shape[2]]
    written, encoded = cv2.imencode(".png" if name == "PNG" else ".tif", picture.pixels.values[..., order])
    if not written:
        raise ValueError(f"OpenCV cannot write 16-bit colour as {name}")
    data = encoded.tobytes()
    profile = picture.info.get("icc_profile")
    if name != "PNG" or not profile:
        return data
    # The profile has its place right behind the header chunk, which ends at byte 33.
    chunk = b"iCCPICC profile\0\0" + zlib.compress(profile)
    return data[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
