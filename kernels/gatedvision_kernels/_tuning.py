"""Numbers that decide how fast kernels are on a GPU, and not what they compute.

The defaults were measured on an H200. ``python tools/benchmark.py tune`` measures others on the GPU at hand and keeps
the best in a file, from which every later process reads them once. Nothing is ever tried while a model runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch


class Knob(NamedTuple):
    """A number that may be tuned.

    Args:
        default: what it is where nothing was tuned.
        others: what else is worth a try.
    """

    default: int
    others: tuple[int, ...]


KNOBS = {
    # Elements of a tile of whole rows: of norms and SwiGLU, and of the gated mix and of channel aggregation, whose
    # backward kernels have seven tiles in registers at once.
    "row_elements": Knob(4096, (1024, 2048, 8192)),
    "mix_elements": Knob(1024, (2048, 4096)),
    "aggregation_elements": Knob(1024, (2048, 4096)),
    # Programs a multiprocessor that share rows and keep partial sums of them.
    "row_programs": Knob(4, (2, 8)),
    # Programs a multiprocessor among which long sequences are cut, and what registers a thread of theirs has (0: all).
    "attention_programs": Knob(3, (2, 4, 6)),
    "attention_registers": Knob(168, (0, 128)),
}

_tried: dict[str, int] = {}


def setting(name: str) -> int:
    """Return a number for the current GPU."""
    return _tried[name] if name in _tried else _settings()[name]


@contextmanager
def override(**values: int) -> Iterator[None]:
    """Set numbers for a while, in this process."""
    before = dict(_tried)
    _tried.update(values)
    try:
        yield
    finally:
        _tried.clear()
        _tried.update(before)


def tuning_file() -> Path:
    """Return where tuned numbers are kept: ``gatedvision/tuning.json`` in ``$XDG_CACHE_HOME``, or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gatedvision" / "tuning.json"


def save_tuning(device: str, values: Mapping[str, int]) -> Path:
    """Keep numbers for all GPUs of a name, beside those of others, and return the file."""
    path = tuning_file()
    content = _read(path) | {device: dict(values)}
    path.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all, for others may be reading.
    whole = path.with_suffix(f".{os.getpid()}")
    whole.write_text(json.dumps(content, indent=2) + "\n")
    whole.replace(path)
    _settings.cache_clear()
    return path


@lru_cache
def _settings() -> dict[str, int]:
    values = {name: knob.default for name, knob in KNOBS.items()}
    if torch.cuda.is_available():
        tuned = _read(tuning_file()).get(torch.cuda.get_device_name(), {})
        # Of another release there may be more or fewer of them.
        values |= {name: value for name, value in tuned.items() if name in KNOBS and value in allowed(name)}
    return values


def allowed(name: str) -> tuple[int, ...]:
    """Return the values of a number that may be tried, its default first."""
    return (KNOBS[name].default, *KNOBS[name].others)


def _read(path: Path) -> dict[str, dict[str, int]]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        return {str(device): dict(values) for device, values in content.items()}
    except (ValueError, AttributeError, TypeError, OSError) as error:
        raise ValueError(f"'{path}' does not hold tuned numbers: delete it, or tune again after that") from error
