"""Fill the holes of image files: the library side of ``tools/inpaint.py``."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.utils import ProgressBar
from torch import nn

from gatedvision.engine.device import find_device
from gatedvision.inpainting.filling import fill_hole, grow_hole
from gatedvision.inpainting.masks import read_holes, transparent_hole
from gatedvision.inpainting.options import Options
from gatedvision.inpainting.pairs import Pair, find_pairs
from gatedvision.inpainting.picture_files import read_mask, read_picture, write_picture
from gatedvision.inpainting.weights import load_generator


def inpaint_files(
    image: str,
    mask: str | None,
    out: str,
    checkpoint: Path | None,
    model: str | None = None,
    model_options: dict[str, Any] | None = None,
    device: str | None = None,
    threshold: float = 127.5,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Fill the holes of one image or of many; a bad one of many is named, and the others are filled all the same.

    Args:
        image: see :func:`gatedvision.inpainting.pairs.find_pairs`.
        mask: likewise.
        out: likewise.
        checkpoint: file with the weights, or a work directory of a run.
        model: the network's name in timm; that of the run, or ``deepfillv2``, by default.
        model_options: its own options, such as ``dim``.
        device: where to run; the GPU where there is one by default.
        threshold: a pixel is hole where the mask is above this, with 255 as full scale at any bit depth.
        overwrite: replace results that exist.
        **options: ``invert``, ``dilate``, ``max_size`` and ``amp`` of :class:`gatedvision.inpainting.Options`.

    Raises:
        ValueError: an option does not fit, or an image could not be filled.
        CheckpointError: there are no weights, or they do not fit.
        FileNotFoundError: there are no images, or no masks.
        FileExistsError: a result exists.
    """
    if not 0 <= threshold < 255:
        raise ValueError(f"--threshold must be from 0 to below 255, got {threshold:g}")
    chosen = Options(threshold=threshold / 255, **options)
    place = find_device(device)
    pairs, several = find_pairs(image, mask, out, overwrite)
    network = load_generator(checkpoint, model, **(model_options or {})).to(place)
    if not several:
        print(_fill_file(pairs[0], network, place, chosen, _show_windows))
        return
    bar = ProgressBar(len(pairs), file=sys.stderr) if sys.stderr.isatty() else None
    failed = 0
    for pair in pairs:
        try:
            line = _fill_file(pair, network, place, chosen)
        except (ValueError, TypeError, OSError) as error:
            failed += 1
            print(f"{_line_break(bar)}failed: '{pair.image}': {error}", file=sys.stderr)
        else:
            if bar is None:
                print(line)
        if bar is not None:
            bar.update()
    print(f"{_line_break(bar)}{len(pairs) - failed} of {len(pairs)} images are in '{out}'")
    if failed:
        raise ValueError(f"{failed} of {len(pairs)} images failed, named above")


def _fill_file(
    pair: Pair,
    network: nn.Module,
    device: torch.device,
    options: Options,
    on_step: Callable[[int, int], None] | None = None,
) -> str:
    """Fill one image file; returns a line about it.

    Raises:
        FileNotFoundError: there is no mask.
        ValueError: image and mask do not fit.
    """
    if pair.mask is not None and not pair.mask.is_file():
        name = pair.mask.name
        raise FileNotFoundError(f"there is no mask called {name!r} or '{name}_mask' in '{pair.mask.parent}'")
    picture = read_picture(pair.image)
    if pair.mask is None:
        hole = transparent_hole(picture.pixels, options)
    else:
        [hole] = read_holes(read_mask(pair.mask), 1, options)
        if picture.turned and hole.shape == picture.pixels.size[::-1]:
            raise ValueError(
                f"'{pair.mask}' lies on its side: the image is shown turned (EXIF orientation), so turn the mask"
            )
    hole = grow_hole(hole, options.dilate)
    windows = fill_hole(picture.pixels, hole, network, device, options, on_step)
    missing = write_picture(picture, pair.out)
    if picture.frames > 1:
        missing.append(f"of {picture.frames} images in the file this is the first")
    done = f"{hole.sum():,} pixels ({hole.mean():.1%}) filled in {windows} window{'s' * (windows != 1)}"
    return "; ".join([f"'{pair.out}': {done if windows else 'the mask is empty, the image is unchanged'}", *missing])


def _show_windows(done: int, total: int) -> None:
    if total > 1 and sys.stderr.isatty():
        print(f"\rwindow {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _line_break(bar: ProgressBar | None) -> str:
    """What ends the line of the bar, if there is one."""
    return "" if bar is None else "\n"
