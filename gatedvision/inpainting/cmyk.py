"""Inks to RGB and back, mixed as in the rest of the image.

The conversion leaves ICC profiles aside, R = (1 - C)(1 - K). Many ink mixtures give the same RGB; a profile would show
them differently, so filled pixels take their share of black from known pixels of the same darkness.
"""

import numpy as np

_BINS = 17


def ink_to_rgb(ink: np.ndarray) -> np.ndarray:
    """Convert inks.

    Args:
        ink: ``[..., 4]`` uint8, 255 = full cyan, magenta, yellow or black.

    Returns:
        ``[..., 3]`` float32, 0 to 1.
    """
    paper = 1 - ink.astype(np.float32) / 255
    return paper[..., :3] * paper[..., 3:]


def rgb_to_ink(rgb: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Convert colours into inks.

    Args:
        rgb: ``[n, 3]`` from 0 to 1.
        reference: ``[m, 4]`` uint8, inks whose share of black to follow; none means as much black as possible.

    Returns:
        ``[n, 4]`` uint8.
    """
    darkness = 1 - rgb.max(axis=1)
    black = darkness * _black_share(darkness, reference)
    inks = 1 - rgb / np.maximum(1 - black, 1e-6)[:, None]
    return np.rint(np.column_stack([inks, black]).clip(0, 1) * 255).astype(np.uint8)


def _black_share(darkness: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Fraction of the darkness that black makes, as the reference has it at that darkness."""
    known_darkness = 1 - ink_to_rgb(reference).max(axis=1)
    dark = known_darkness > 0.5 / 255
    if not dark.any():
        return np.ones_like(darkness)
    share = reference[dark, 3] / np.float32(255) / known_darkness[dark]
    bins = np.rint(known_darkness[dark] * (_BINS - 1)).astype(int)
    count, total = np.bincount(bins, minlength=_BINS), np.bincount(bins, share, minlength=_BINS)
    filled = count > 0
    nodes = np.linspace(0, 1, _BINS)[filled]
    return np.interp(darkness, nodes, total[filled] / count[filled]).clip(0, 1)
