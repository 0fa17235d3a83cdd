"""Compare two checkpoints."""

from typing import Any

import numpy as np
import torch

LEFT_OUT = {"time", "cfg", "experiment_name", "mmengine_version", "eta"} | {
    f"{mode}/{key}" for mode in ("train", "val") for key in ("time", "data_time")
}


def assert_same(actual: Any, expected: Any, name: str = "checkpoint") -> None:
    """Compare two checkpoints in everything but time, place and settings."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), name
        for key in expected.keys() - LEFT_OUT:
            assert_same(actual[key], expected[key], f"{name}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected), name
        for index, (one, other) in enumerate(zip(actual, expected, strict=True)):
            assert_same(one, other, f"{name}[{index}]")
    elif isinstance(expected, torch.Tensor):
        np.testing.assert_array_equal(actual.numpy(), expected.numpy(), err_msg=name)
    else:
        assert actual == expected, name
