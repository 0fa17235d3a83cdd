"""Where data lie: paths as users write them, and the images in a folder."""

import os
from collections.abc import Collection
from pathlib import Path
from string import Template

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def expand_path(path: str | Path) -> Path:
    """Fill in variables and ``~``; ``$GATEDVISION_DATA`` is ``data`` when unset."""
    variables = {"GATEDVISION_DATA": "data", **os.environ}
    return Path(Template(str(path)).safe_substitute(variables)).expanduser()


def images_in(folder: Path, recursive: bool, suffixes: Collection[str] = IMAGE_SUFFIXES) -> list[Path]:
    """List the images in a folder, sorted; with ``recursive`` those in the folders below it too.

    Names of files of a kind end in one of its ``suffixes``, whatever their case.
    """
    endings = tuple(suffixes)
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        for file in files:
            # A name that is nothing but an ending is that of a hidden file.
            if file.lower().endswith(endings) and file.lower() not in endings:
                found.append(Path(parent, file))
        if not recursive:
            folders.clear()
    return sorted(found)
