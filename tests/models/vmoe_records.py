"""Golden records of V-MoE: weights as they were filled, and routing decisions."""

from typing import Any

import torch
from torch import Tensor

from tests.golden.golden import Record, find_records

RECORDS: dict[str, Record] = {record.name: record for record in find_records("vmoe")}


def recorded_weights(record: Record) -> dict[str, Tensor]:
    """Return the published state dict of a record in float64, with its corrections of the plain fill."""
    weights = record.weights()
    for name, change in record.facts.get("fill_overrides", {}).items():
        weights[name] = weights[name] * change["multiply_by"]
    return weights


def assert_equal(actual: Tensor, expected: Tensor, tolerance: float, what: str, scale: float = 0.0) -> None:
    """Compare with a tolerance relative to the largest expected value or to a given scale."""
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    scale = scale or float(expected.double().abs().max()) or 1.0
    error = float((actual.detach().double() - expected.double()).abs().max())
    assert error <= tolerance * scale, f"{what}: off by {error:.2e} of {scale:.2e}"


def slots_in_group(routing: Any, num_groups: int) -> Tensor:
    """Return each kept choice's slot in its expert's buffer for its group, -1 for dropped ones: ``[T, K]``."""
    inside = routing.slot_of_choice % routing.capacity
    return torch.where(routing.slot_of_choice < 0, -1, inside)
