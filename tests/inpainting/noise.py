"""An image of noise, and a hole for it."""

import numpy as np

HOLE = np.zeros((40, 51), dtype=bool)
HOLE[10:22, 30:51] = True


def noise(*channels: int, dtype: str = "uint8") -> np.ndarray:
    """Draw an image ``[40, 51, *channels]`` of all values of a dtype, floats from 0 to 1."""
    values = np.random.default_rng(0).random((*HOLE.shape, *channels))
    kind = np.dtype(dtype)
    return values.astype(kind) if kind.kind == "f" else (values * np.iinfo(kind).max).astype(kind)
