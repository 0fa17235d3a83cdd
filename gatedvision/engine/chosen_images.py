"""Which images of the test data pictures show."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


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
