"""Images in class folders: ImageNet's layout, torchvision's ImageFolder layout, CIFAR-10 as files.

``root/<split>/<class>/<image>``; the class index is the place of the class's folder in sorted order, which for
ImageNet's WordNet ids is the usual order of the 1,000 classes.
"""

import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.registry import TRANSFORMS
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from gatedvision.data._files import expand_path, images_in
from gatedvision.data.image_reader import UnreadableImageError, read_image

Transform = Callable[[Image.Image], Tensor]
_REMEDY = "set GATEDVISION_DATA, or root of the data set (--cfg-options train_dataloader.dataset.root=PATH ...)"


class ImageFolder(Dataset[dict[str, Any]]):
    """Labelled images in ``root/<split>/<class>/``, found recursively and kept in sorted order.

    Args:
        root: folder of the splits. ``$NAME`` and ``~`` are expanded; ``$GATEDVISION_DATA`` is ``data`` when unset.
        split: name of the split's folder, such as ``"train"`` or ``"val"``.
        transform: maps the RGB image to the model's input ``[C, H, W]``; a callable, or a config
            ``dict(type=..., ...)``.
        class_split: the split whose folders define the classes, so that a class missing from the validation
            images does not shift the others.
        on_error: ``"raise"`` stops at an unreadable image, ``"skip"`` yields the next readable one in its place
            and reports it (see :attr:`unreadable`).
        cache: decode every image once, now, and keep the pixels in memory (3 bytes a pixel; worker processes
            share them where they are forked). For small sets whose decoding would starve the accelerator.

    Raises:
        FileNotFoundError: root, split or class_split is missing.
        ValueError: no classes, an empty class, a class that class_split does not have, or a bad option.
        UnreadableImageError: with ``cache`` and ``on_error="raise"``, an image cannot be decoded.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        transform: Transform | Mapping[str, Any] | None = None,
        class_split: str = "train",
        on_error: Literal["raise", "skip"] = "raise",
        cache: bool = False,
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
        folder = _split_folder(expand_path(root), split)
        self.classes = _class_names(_split_folder(expand_path(root), class_split, option="class_split"))
        self.samples = _list_samples(folder, self.classes)
        self.transform = TRANSFORMS.build(dict(transform)) if isinstance(transform, Mapping) else transform
        self.on_error = on_error
        self.metainfo = {"classes": self.classes}
        # In shared memory, so that what a worker process meets is known to all of them.
        self._unreadable = torch.zeros(len(self.samples), dtype=torch.bool).share_memory_()
        self._cache: list[np.ndarray | None] | None = None
        if cache:
            self._cache = self._decode_all()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, index = self._read_or_next(index)
        return {"inputs": self.transform(image) if self.transform else image, "label": self.samples[index][1]}

    @property
    def unreadable(self) -> list[Path]:
        """Files that were skipped so far because they could not be decoded."""
        return [self.samples[index][0] for index in self._unreadable.nonzero().flatten().tolist()]

    def _read_or_next(self, index: int) -> tuple[Image.Image, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        for candidate in (*range(index, len(self)), *range(index)):
            image = self._read(candidate)
            if image is not None:
                return image, candidate
        raise UnreadableImageError(f"none of the {len(self)} images under '{self.samples[0][0].parent}' can be read")

    def _read(self, index: int) -> Image.Image | None:
        if self._cache is not None:
            pixels = self._cache[index]
            return None if pixels is None else Image.fromarray(pixels)
        if self._unreadable[index]:
            return None
        try:
            return read_image(self.samples[index][0])
        except UnreadableImageError as error:
            if self.on_error == "raise":
                raise
            self._unreadable[index] = True
            print_log(f"{error} (skipped; {int(self._unreadable.sum())} so far)", "current", logging.WARNING)
            return None

    def _decode_all(self) -> list[np.ndarray | None]:
        def pixels(index: int) -> np.ndarray | None:
            image = self._read(index)
            return None if image is None else np.asarray(image)

        # Pillow decodes outside the interpreter lock, so threads use all cores.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(pixels, range(len(self))))


def _split_folder(root: Path, split: str, option: str = "split") -> Path:
    if not root.is_dir():
        raise FileNotFoundError(f"no data folder '{root}'; {_REMEDY}")
    folder = root / split
    if folder.is_dir():
        return folder
    found = sorted(path.name for path in root.iterdir() if path.is_dir())
    if any(images_in(root / name, recursive=False) for name in found[:10]):
        raise FileNotFoundError(
            f"'{root}' holds class folders but no split '{split}': move the training images to '{root / 'train'}' "
            f"and a held-out part of each class to '{root / 'val'}'"
        )
    raise FileNotFoundError(
        f"no split '{split}' in '{root}' (it has {found or 'no folders'}); set {option}, or {_REMEDY}"
    )


def _class_names(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise ValueError(f"'{folder}' has no class folders; expected '{folder}/<class>/<image>'")
    return names


def _list_samples(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    index_of = {name: index for index, name in enumerate(classes)}
    samples: list[tuple[Path, int]] = []
    for name in _class_names(folder):
        if name not in index_of:
            raise ValueError(f"class '{name}' in '{folder}' is not one of the {len(classes)} training classes")
        images = images_in(folder / name, recursive=True)
        if not images:
            raise ValueError(f"class folder '{folder / name}' has no image; add some or remove it")
        samples.extend((path, index_of[name]) for path in images)
    return samples
