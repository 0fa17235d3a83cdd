"""Which images of the test data pictures show, and their pixels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def choose_images(dataset: Any, images: int, names: Sequence[str] | None) -> list[tuple[str, int]]:
    """Choose images, spread over the data or by name.

    Args:
        dataset: images with a ``name``, or with ``samples``, entries that begin with a file or end with a name; others
            go by their number.
        images: how many, at least 1, unless there are names.
        names: these images, by the names of their files without the ending.

    Returns:
        Name and index of each.

    Raises:
        ValueError: there is none of such a name.
    """
    if names is None:
        count = min(images, len(dataset))
        chosen = [number * len(dataset) // count for number in range(count)]
        return [(_name(dataset, index), index) for index in chosen]
    known = [_name(dataset, index) for index in range(len(dataset))]
    for name in names:
        if name not in known:
            raise ValueError(f"no image '{name}' in the test data; they are called like '{known[0]}'")
    return [(name, known.index(name)) for name in names]


def _name(dataset: Any, index: int) -> str:
    entries = getattr(dataset, "samples", None)
    if entries:
        *_, last = entry = entries[index]
        return last if isinstance(last, str) else Path(entry[0]).stem
    return dataset[index].get("name", f"{index:05d}")


def to_bytes(image: Tensor, task: Any) -> Tensor:
    """Return an image of a task's data as bytes, whatever it is normalised by.

    Args:
        image: ``[C, H, W]``, bytes or numbers.
        task: the task model, with ``mean`` and ``std``.
    """
    if image.dtype == torch.uint8:
        return image
    # Grey images are not normalised by three means.
    if len(image) == len(task.mean):
        image = image * task.std.cpu() + task.mean.cpu()
    return image.mul(255).round().clamp(0, 255).byte()
