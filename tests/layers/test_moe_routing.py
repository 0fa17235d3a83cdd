"""Groups of tokens, their capacity, and who comes first."""

import pytest
import torch

from gatedvision.layers.moe_routing import capacity_of, cut_into_groups
from gatedvision_kernels.moe_slots import take_turns
from gatedvision_kernels.top_k_gates import choose_experts


@pytest.mark.parametrize(
    ("choices", "factor", "num_experts", "rounding", "multiple_of", "capacity"),
    [
        # What the configurations that were published come to, as the code and as the paper count.
        (2 * 400, 1.05, 8, "ceil", 4, 108),
        (2 * 50, 1.05, 8, "ceil", 4, 16),
        (2 * 1160, 1.5, 8, "ceil", 4, 436),
        (2 * 4616, 1.5, 8, "ceil", 4, 1732),
        (2 * 577, 1.5, 8, "ceil", 4, 220),
        (2 * 2056, 1.05, 32, "ceil", 4, 136),
        (2 * 400, 1.05, 8, "round", 1, 105),
        (2 * 1576, 1.05, 8, "round", 1, 414),
        (2 * 2056, 1.05, 32, "round", 1, 135),
        (1, 0.01, 8, "ceil", 1, 1),
    ],
)
def test_capacity(
    choices: int, factor: float, num_experts: int, rounding: str, multiple_of: int, capacity: int
) -> None:
    assert capacity_of(choices, factor, num_experts, rounding, multiple_of) == capacity


@pytest.mark.parametrize(
    ("images", "sizes"), [(1, [1]), (7, [7]), (8, [8]), (16, [8, 8]), (9, [5, 4]), (17, [6, 6, 5]), (26, [7, 7, 7, 5])]
)
def test_groups_of_any_batch(images: int, sizes: list[int]) -> None:
    x = torch.arange(images * 3.0).view(images, 3, 1) + 1
    grouped = cut_into_groups(x, 8)
    assert [int(n) for n in grouped.present.sum(1)] == [3 * size for size in sizes]
    assert torch.equal(grouped.values[grouped.present], x.flatten(0, 1))
    assert not grouped.values[~grouped.present].any()


def test_ties_go_to_the_lower_expert_and_the_earlier_token() -> None:
    gates = torch.tensor([[[0.4, 0.4, 0.2], [0.4, 0.2, 0.4], [0.4, 0.3, 0.3]]])
    assert choose_experts(gates, 2).tolist() == [[[0, 1], [0, 2], [0, 1]]]
    turns = take_turns(choose_experts(gates, 1), 3, torch.ones(1, 3).bool(), gates.amax(-1))
    assert turns.flatten().tolist() == [0, 1, 2]
