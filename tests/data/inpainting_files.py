"""Images of different sizes with sketches, and masks, as files."""

from pathlib import Path

import numpy as np
from PIL import Image


def write(path: Path, height: int, width: int, mode: str = "RGB", seed: int = 0) -> np.ndarray:
    """Write noise of a mode, ``"RGB"`` or ``"L"``; return its pixels."""
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def write_images(folder: Path) -> None:
    """Write three images of different sizes, with sketches."""
    for number, (name, size) in enumerate({"b.png": (40, 50), "a/c.png": (20, 90), "a/d_edge.png": (64, 64)}.items()):
        write(folder / name, *size, seed=number)
        sketch = folder / name
        write(sketch.with_name(f"{sketch.stem}_edge.png"), *size, mode="L", seed=number + 10)


def write_masks(folder: Path) -> None:
    """Write two masks, white in the left half and in the right half."""
    for number in range(2):
        hole = np.zeros((40, 50), dtype=np.uint8)
        hole[:, number * 25 : (number + 1) * 25] = 255
        folder.mkdir(exist_ok=True)
        Image.fromarray(hole).save(folder / f"{number}.png")
