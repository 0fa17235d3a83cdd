"""The handwritten digits that scikit-learn ships: real data without a download."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.registry import TRANSFORMS
from torch import Tensor
from torch.utils.data import Dataset

Transform = Callable[[Tensor], Tensor]


class Digits(Dataset[dict[str, Any]]):
    """1,797 grey 8x8 images of handwritten digits (UCI optical recognition set, CC BY 4.0).

    Of every class each fifth image is held out (``split="val"``, 355 images), the others are for training
    (1,442 images). The division is fixed: no random numbers are involved.

    Args:
        split: ``"train"`` or ``"val"``.
        transform: maps the image ``[1, 8, 8]`` to the model's input; a callable, or a config ``dict(type=..., ...)``.

    Raises:
        ValueError: unknown split.
        ModuleNotFoundError: scikit-learn is not installed.
    """

    def __init__(self, split: str, transform: Transform | Mapping[str, Any] | None = None) -> None:
        if split not in ("train", "val"):
            raise ValueError(f"split of the digits must be 'train' or 'val', got {split!r}")
        images, labels = _load_digits()
        chosen = _is_held_out(labels) == (split == "val")
        # Grey levels are 0..16.
        self.images = torch.from_numpy(images[chosen]).float().div(16).unsqueeze(1)
        self.labels = labels[chosen].tolist()
        self.transform = TRANSFORMS.build(dict(transform)) if isinstance(transform, Mapping) else transform
        self.metainfo = {"classes": [str(digit) for digit in range(10)]}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.images[index]
        return {"inputs": self.transform(image) if self.transform else image, "label": self.labels[index]}


def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        message = "the digits come with scikit-learn, which is not installed: pip install 'gatedvision[demo]'"
        raise ModuleNotFoundError(message, name=error.name) from error
    digits: Any = load_digits()
    return digits.images, digits.target


def _is_held_out(labels: np.ndarray) -> np.ndarray:
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        held_out[np.flatnonzero(labels == label)[4::5]] = True
    return held_out
