"""Read golden records: what published networks compute from weights that are drawn from their names.

A record is a JSON file that describes inputs and state dict, beside an NPZ file with the outputs. The
draws repeat bit for bit on every machine: ``numpy.random.RandomState`` is frozen, and the seed of a
weight is the start of the SHA-256 of its published name.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Record:
    """One golden record.

    Attributes:
        family: folder it lies in.
        name: file name without its ending.
        facts: the JSON file.
    """

    family: str
    name: str
    facts: dict[str, Any]

    def arrays(self) -> dict[str, Tensor]:
        """Return the recorded outputs, float64."""
        with np.load(FOLDER / self.family / f"{self.name}.npz") as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}

    def weights(self, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """Return the state dict under its published names."""
        return {name: draw_weight(name, shape).to(dtype) for name, shape in self.facts["keys"].items()}

    def __str__(self) -> str:
        return self.name


def find_records(family: str = "*", kind: str = "*") -> list[Record]:
    """Return the records of a family (a folder) and of a kind: ``op``, ``block`` or ``model``."""
    records = []
    for path in sorted(FOLDER.glob(f"{family}/*.json")):
        facts = json.loads(path.read_text())
        # Records that do not state their kind are models if they are called after the family, and else parts.
        own_kind = facts.get("kind") or ("model" if path.stem.startswith(f"{path.parent.name}_") else "block")
        if kind in ("*", own_kind):
            records.append(Record(path.parent.name, path.stem, facts))
    return records


def draw_input(*shape: int, seed: int = 0) -> Tensor:
    """Return a standard normal float64 array."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape))


def draw_weight(name: str, shape: list[int]) -> Tensor:
    """Return the float64 value of a state-dict entry.

    Matrices and kernels are normal with deviation ``fan_in ** -0.5``; scales lie around 1 and biases
    around 0, both with deviation 0.1.
    """
    digest = hashlib.sha256(name.encode()).digest()
    stream = np.random.RandomState(int.from_bytes(digest[:4], "little"))
    last = name.replace("/", ".").split(".")[-1]
    if last == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.float64)
    if last == "running_var":
        return torch.from_numpy(stream.uniform(0.5, 1.5, size=shape))
    if len(shape) > 1:
        return torch.from_numpy(stream.standard_normal(shape) / math.sqrt(math.prod(shape[1:])))
    centre = 0.0 if last in ("b", "running_mean") or last.endswith("bias") else 1.0
    return torch.as_tensor(centre + 0.1 * stream.standard_normal(shape))
