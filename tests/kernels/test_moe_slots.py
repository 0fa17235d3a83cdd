"""Slots of experts: against a loop, bit by bit, with short groups, priorities and ties; and what is refused."""

import pytest
import torch
from torch import Tensor

from gatedvision_kernels import moe_slots

BACKENDS = ["triton", "reference"]
# Tokens, choices, experts, group and capacity: one of each; slots for all; a short last group, where some are dropped;
# fewer choices than slots; one long group of more tokens than a block; no slot at all.
SHAPES = [
    (1, 1, 1, 1, 1),
    (12, 2, 3, 4, 8),
    (23, 3, 5, 10, 4),
    (7, 1, 6, 5, 3),
    (4100, 2, 3, 4100, 2500),
    (6, 2, 3, 3, 0),
]


def serve(experts: Tensor, num_experts: int, group_size: int, capacity: int, priority: Tensor | None):
    """Serve one choice after the other."""
    num_tokens, num_choices = experts.shape
    num_groups = -(-num_tokens // group_size)
    slot_of_choice, choice_of_slot = (
        torch.full((num_tokens, num_choices), -1),
        [-1] * num_experts * num_groups * capacity,
    )
    chosen = experts.tolist()
    for group in range(num_groups):
        tokens = range(group * group_size, min(num_tokens, (group + 1) * group_size))
        if priority is not None:
            values = priority.tolist()
            tokens = sorted(tokens, key=lambda token: -values[token])
        served = [0] * num_experts
        for rank in range(num_choices):
            for token in tokens:
                expert = chosen[token][rank]
                if served[expert] < capacity:
                    slot = (expert * num_groups + group) * capacity + served[expert]
                    slot_of_choice[token, rank] = slot
                    choice_of_slot[slot] = token * num_choices + rank
                served[expert] += 1
    return slot_of_choice, torch.tensor(choice_of_slot, dtype=torch.int64)


def draw(shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Draw different experts of each token, and priorities with ties."""
    num_tokens, num_choices, num_experts = shape[:3]
    generator = torch.Generator().manual_seed(0)
    experts = torch.rand(num_tokens, num_experts, generator=generator).argsort(1)[:, :num_choices]
    return experts.to(device), torch.randint(0, 5, (num_tokens,), generator=generator).float().to(device) / 4


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("by_priority", [False, True], ids=["in order", "by priority"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_a_loop(shape, by_priority, backend, device):
    experts, priority = draw(shape, device)
    first = priority if by_priority else None
    expected = serve(experts, *shape[2:], first)
    for found, value in zip(moe_slots(experts, *shape[2:], first, backend=backend), expected, strict=True):
        assert found.dtype == torch.int64 and torch.equal(found.cpu(), value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_expert_may_be_chosen_twice(backend, device):
    experts = torch.zeros(5, 2, dtype=torch.int64, device=device)
    expected = serve(experts, 2, 3, 4, None)
    for found, value in zip(moe_slots(experts, 2, 3, 4, backend=backend), expected, strict=True):
        assert torch.equal(found.cpu(), value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts_and_dtypes(backend, device):
    experts, priority = draw((23, 3, 5), device)
    expected = moe_slots(experts, 5, 10, 4, priority)
    # Columns of wider tensors, as the router gives them.
    wide, gates = torch.cat([experts, experts], 1), torch.stack([priority, -priority], 1)
    for other in (experts.int(), experts.T.contiguous().T, wide[:, :3]):
        for first in (gates[:, 0], priority.bfloat16(), gates[:, 0].requires_grad_()):
            for found, value in zip(moe_slots(other, 5, 10, 4, first, backend=backend), expected, strict=True):
                assert torch.equal(found, value)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("group_size", [0, 3])
def test_no_tokens(group_size, backend, device):
    experts, priority = torch.zeros(0, 2, dtype=torch.int64, device=device), torch.zeros(0, device=device)
    for first in (None, priority):
        slots, choices = moe_slots(experts, 4, group_size, 0, first, backend=backend)
        assert slots.shape == (0, 2) and choices.shape == (0,)


@pytest.mark.parametrize("backend", BACKENDS)
def test_groups_of_open_size(backend, device):
    """Where the batch is open, so are the tokens of a group and its slots."""
    torch.compiler.reset()

    def call(experts: Tensor, priority: Tensor) -> tuple[Tensor, Tensor]:
        size = experts.shape[0] // 2
        return moe_slots(experts, 5, size, size // 2, priority, backend=backend)

    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    for num_tokens in (20, 27):
        inputs = draw((num_tokens, 3, 5), device)
        for found, value in zip(compiled(*inputs), call(*inputs), strict=True):
            assert torch.equal(found, value)


E, P = torch.zeros(4, 2, dtype=torch.int64), torch.zeros(4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: moe_slots(E[0], 3, 2, 1), r"int32 or int64 \[T, K\], K > 0; got torch.int64 \(2,\)"),
        (lambda: moe_slots(E[:, :0], 3, 2, 1), r"K > 0; got torch.int64 \(4, 0\)"),
        (lambda: moe_slots(E.float(), 3, 2, 1), r"int32 or int64 \[T, K\], K > 0; got torch.float32 \(4, 2\)"),
        (lambda: moe_slots(E, 0, 2, 1), "at least 1 and capacity at least 0, got 0, 2 and 1"),
        (lambda: moe_slots(E, 3, 0, 1), "at least 1 and capacity at least 0, got 3, 0 and 1"),
        (lambda: moe_slots(E, 3, 2, -1), "at least 1 and capacity at least 0, got 3, 2 and -1"),
        (lambda: moe_slots(E, 3, 2, 1, P[:3]), r"floating point \[4\], one of each token, got torch.float32 \(3,\)"),
        (lambda: moe_slots(E, 3, 2, 1, P.int()), r"floating point \[4\], one of each token, got torch.int32 \(4,\)"),
        (lambda: moe_slots(E, 3, 2, 1, P.to("meta")), "experts lie on cpu, priority on meta"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
