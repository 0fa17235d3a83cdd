"""From samples to a batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate


def collate_samples(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Stack classification samples into one batch.

    Args:
        samples: dictionaries with ``inputs``, ``[C, H, W]`` of one common shape and type, and ``label``, a class
            index.

    Returns:
        ``inputs`` ``[B, C, H, W]`` and ``labels`` ``[B]`` (int64).

    Raises:
        ValueError: the images differ in shape.
    """
    shapes = {tuple(sample["inputs"].shape) for sample in samples}
    if len(shapes) > 1:
        raise ValueError(f"images of one batch differ in shape: {sorted(shapes)}; end the transform with a fixed size")
    return {
        # In a worker process this stacks into shared memory, where the batch has to go anyway.
        "inputs": default_collate([sample["inputs"] for sample in samples]),
        "labels": torch.tensor([sample["label"] for sample in samples], dtype=torch.int64),
    }
