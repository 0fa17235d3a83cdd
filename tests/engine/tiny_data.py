"""A dataset that needs no file: coloured noise, augmented at random, with a class that can be learned."""

import os
import random
import signal
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


class TinyImages(Dataset[dict[str, Any]]):
    """Noise images of 4 classes whose mean tells the class, under noise from all three generators."""

    def __init__(self, length: int = 22, num_classes: int = 4, bad_index: int | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        self.labels = [index % num_classes for index in range(length)]
        self.images = torch.randn(length, 3, 8, 8, generator=generator) + torch.tensor(self.labels)[:, None, None, None]
        if bad_index is not None:
            self.images[bad_index] = float("nan")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        noise = 0.1 * torch.randn(3, 8, 8) + 0.1 * random.random() + 0.1 * np.random.rand()
        return {"inputs": (self.images[index] + noise).float(), "label": self.labels[index]}


def collate(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Stack samples."""
    labels = torch.tensor([sample["label"] for sample in samples])
    return {"inputs": torch.stack([sample["inputs"] for sample in samples]), "labels": labels}


def kill_self() -> None:
    """Die as under ``kill -9``."""
    os.kill(os.getpid(), signal.SIGKILL)
