"""Where data lie: paths as users write them, and the images in a folder."""

import os
from pathlib import Path
from string import Template

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def expand_path(path: str | Path) -> Path:
    """Fill in variables and ``~``; ``$GATEDVISION_DATA`` is ``data`` when unset."""
    variables = {"GATEDVISION_DATA": "data", **os.environ}
    return Path(Template(str(path)).safe_substitute(variables)).expanduser()


def images_in(folder: Path, recursive: bool) -> list[Path]:
    """List the images in a folder, sorted; with ``recursive`` those in the folders below it too."""
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        found.extend(Path(parent, file) for file in files if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES)
        if not recursive:
            folders.clear()
    return sorted(found)
