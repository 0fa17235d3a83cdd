"""Which images are filled with which masks, and where the results go."""

import glob
from pathlib import Path
from typing import NamedTuple

from gatedvision.data._files import images_in
from gatedvision.inpainting.picture_files import file_format, natural_suffix


class Pair(NamedTuple):
    """An image file, its mask (``None``: its transparency; where none was found, its name), and the file to write."""

    image: Path
    mask: Path | None
    out: Path


def find_pairs(image: str, mask: str | None, out: str, overwrite: bool) -> tuple[list[Pair], bool]:
    """Pair up what a command line names.

    Args:
        image: a file, a folder, or a pattern such as ``"photos/*.jpg"``.
        mask: a file, which serves all images, a folder, or a pattern; of the latter two the mask of ``photo.jpg`` is
            called ``photo`` or ``photo_mask``, whatever the suffix. ``None`` takes the images' transparency.
        out: a file, or for several images a folder. In a folder results are called as the images, in their format where
            that is PNG or TIFF, otherwise as PNG, or TIFF for CMYK.
        overwrite: allow results to exist.

    Returns:
        The pairs, and whether ``image`` names several.

    Raises:
        FileNotFoundError: there is no such file, or none in a folder or of a pattern.
        FileExistsError: a result exists.
        ValueError: two images have the same result, or it has no format that can be written.
    """
    images, several = _files(image, "image")
    masks, _ = _files(mask, "mask") if mask is not None else ([], False)
    one_mask = masks[0] if mask is not None and Path(mask).is_file() else None
    by_name = {path.stem.removesuffix("_mask"): path for path in masks} | {path.stem: path for path in masks}
    into_folder = several or out.endswith("/") or Path(out).is_dir()
    pairs, origins = [], {}
    for path in images:
        result = Path(out, path.stem + natural_suffix(path)) if into_folder else Path(out)
        file_format(result)
        if (other := origins.setdefault(result, path)) != path:
            raise ValueError(f"'{other}' and '{path}' would both be written to '{result}'; rename one")
        own = by_name.get(path.stem, Path(str(mask), path.stem)) if mask is not None else None
        pairs.append(Pair(path, one_mask or own, result))
    existing = [pair.out for pair in pairs if pair.out.exists()]
    if existing and not overwrite:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise FileExistsError(f"'{existing[0]}' exists{more}; pass --overwrite to replace it, or another -o")
    return pairs, several


def _files(text: str, what: str) -> tuple[list[Path], bool]:
    """The files that a path or pattern means, and whether it could mean several.

    Raises:
        FileNotFoundError: there are none.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        found = images_in(path, recursive=False)
        if not found:
            raise FileNotFoundError(f"no {what} in folder '{text}'")
        return found, True
    if path.exists():
        return [path], False
    found = sorted(match for name in glob.glob(str(path), recursive=True) if (match := Path(name)).is_file())
    if not found:
        raise FileNotFoundError(f"no {what} at '{text}'")
    return found, True
