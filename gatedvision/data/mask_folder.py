"""Holes for inpainting from files."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from gatedvision.data._files import expand_path, images_in
from gatedvision.data.image_reader import UnreadableImageError

# Greater values are white.
_THRESHOLD = 127.5


def read_mask(path: str | Path, hole: Literal["white", "black"] = "white") -> np.ndarray:
    """Read a mask file; what has several channels or grey levels is divided at 127.5 of 255.

    Args:
        path: image file of any size and mode that Pillow turns into 8-bit grey, such as the one-bit masks of editors.
        hole: the colour of what is to be filled.

    Returns:
        uint8 ``[H, W]``, 1 in the hole and 0 elsewhere.

    Raises:
        UnreadableImageError: the file is missing or damaged.
    """
    try:
        with Image.open(path) as image:
            image.load()
            values = np.asarray(image) if image.mode.startswith("I") else np.asarray(image.convert("L"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split()).replace(f"'{path}'", "").strip()
        raise UnreadableImageError(f"cannot read mask '{path}': {reason}") from error
    # 16 bits, which Pillow would clip to 8.
    white = values > (_THRESHOLD if values.dtype == np.uint8 else _THRESHOLD * 257)
    return (white if hole == "white" else ~white).astype(np.uint8)


def fit_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Stretch a mask to the size of an image, each pixel taking the value of the nearest one.

    Args:
        mask: uint8 ``[h, w]``.
        height: rows of the image.
        width: columns of the image.

    Returns:
        uint8 ``[height, width]``.
    """
    if mask.shape == (height, width):
        return mask
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


class MaskFolder:
    """Holes from the files in a folder, in sorted order, stretched to the size of the image.

    Args:
        folder: the folder; those below it are searched, too. ``$NAME`` and ``~`` are expanded.
        match: ``"index"`` gives the first image the first mask, and so on, beginning anew after the last one;
            ``"random"`` draws one for each image by torch's generator, which the engine seeds for each sample.
        hole: ``"white"`` or ``"black"``, the colour of what is to be filled in the files. See :func:`read_mask`.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        ValueError: another way to match, or another colour.
    """

    def __init__(
        self,
        folder: str | Path,
        match: Literal["index", "random"] = "index",
        hole: Literal["white", "black"] = "white",
    ) -> None:
        if match not in ("index", "random"):
            raise ValueError(f"match must be 'index' or 'random', got {match!r}")
        if hole not in ("white", "black"):
            raise ValueError(f"hole must be 'white' or 'black', got {hole!r}")
        path = expand_path(folder)
        if not path.is_dir():
            raise FileNotFoundError(f"no folder of masks '{path}'; set folder of the masks, or GATEDVISION_DATA")
        self.paths = images_in(path, recursive=True)
        if not self.paths:
            raise FileNotFoundError(f"no mask in '{path}'; set folder of the masks")
        self.match = match
        self.hole: Literal["white", "black"] = hole

    def __len__(self) -> int:
        return len(self.paths)

    def __call__(self, height: int, width: int, index: int = 0) -> np.ndarray:
        """Read the hole for an image.

        Args:
            height: rows of the image.
            width: columns of the image.
            index: place of the image in its data set.

        Returns:
            uint8 ``[height, width]``, 1 in the hole and 0 elsewhere.
        """
        place = int(torch.randint(len(self), ())) if self.match == "random" else index % len(self)
        return fit_mask(read_mask(self.paths[place], self.hole), height, width)
