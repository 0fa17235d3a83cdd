"""Dispatch and combination of experts: against loops, their gradients, and what they refuse."""

import pytest
import torch
from torch import Tensor

from gatedvision_kernels import moe_combine, moe_combine_reference, moe_dispatch, moe_dispatch_reference

# Tokens, choices, slots and channels: one of each; primes with empty and missing slots; rows over a block and channels
# over a block; and on a GPU an expert block of B/16.
SHAPES = [(1, 1, 1, 1), (11, 2, 13, 7), (37, 3, 71, 300)] + [(1576, 2, 3328, 768)] * torch.cuda.is_available()


def make_slots(num_tokens: int, num_choices: int, num_slots: int, device: torch.device) -> dict[str, Tensor]:
    """Pair choices with slots at random, leaving some of both alone."""
    generator = torch.Generator().manual_seed(2)
    pairs = max(1, 3 * min(num_tokens * num_choices, num_slots) // 4)
    choices = torch.randperm(num_tokens * num_choices, generator=generator)[:pairs]
    slots = torch.randperm(num_slots, generator=generator)[:pairs]
    choice_of_slot = torch.full((num_slots,), -1).scatter(0, slots, choices)
    slot_of_choice = torch.full((num_tokens * num_choices,), -1).scatter(0, choices, slots)
    maps = {"choice_of_slot": choice_of_slot, "slot_of_choice": slot_of_choice.view(num_tokens, num_choices)}
    return {name: x.to(device) for name, x in maps.items()}


def test_references_are_loops(make_inputs, device):
    inputs = make_inputs({"x": (11, 7), "buffers": (13, 7), "gates": (11, 2)}, torch.float64)
    slots = make_slots(11, 2, 13, device)
    buffers, y = torch.zeros_like(inputs["buffers"]), torch.zeros_like(inputs["x"])
    for token in range(11):
        for choice in range(2):
            slot = int(slots["slot_of_choice"][token, choice])
            if slot >= 0:
                buffers[slot] = inputs["x"][token]
                y[token] += inputs["gates"][token, choice] * inputs["buffers"][slot]
    assert 0 < int((slots["choice_of_slot"] < 0).sum()) < 13
    assert torch.equal(moe_dispatch_reference(inputs["x"], **slots), buffers)
    torch.testing.assert_close(moe_combine_reference(inputs["buffers"], inputs["gates"], **slots), y)


def test_reference_gradients(make_inputs, device):
    slots = tuple(make_slots(5, 2, 6, device).values())
    x, buffers, gates = make_inputs({"x": (5, 3), "buffers": (6, 3), "gates": (5, 2)}, torch.float64).values()
    leaves = [leaf.requires_grad_() for leaf in (x, buffers, gates)]
    assert torch.autograd.gradcheck(lambda x: moe_dispatch_reference(x, *slots), leaves[:1])
    assert torch.autograd.gradcheck(lambda *inputs: moe_combine_reference(*inputs, *slots), leaves[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_agree(shape, dtype, make_inputs, assert_agrees, device):
    num_tokens, num_choices, num_slots, width = shape
    slots = make_slots(num_tokens, num_choices, num_slots, device)
    assert_agrees(lambda x, backend: moe_dispatch(x, **slots, backend=backend), make_inputs({"x": shape[::3]}, dtype))
    inputs = make_inputs({"buffers": (num_slots, width)}, dtype) | make_inputs({"gates": (num_tokens, num_choices)})
    # Gates stay in float32.
    wide = torch.float32 if dtype == torch.float32 else dtype
    tolerance = {torch.float32: 4e-6, torch.bfloat16: 2**-6, torch.float16: 2**-10}[wide]
    assert_agrees(
        lambda buffers, gates, backend: moe_combine(buffers, gates, **slots, backend=backend), inputs, tolerance
    )


def test_int32_slots(make_inputs, device):
    slots = make_slots(11, 2, 13, device)
    narrow = {name: x.int() for name, x in slots.items()}
    inputs = make_inputs({"x": (11, 7), "buffers": (13, 7), "gates": (11, 2)})
    for backend in ("triton", "reference"):
        expected = moe_dispatch(inputs["x"], **slots)
        assert torch.equal(moe_dispatch(inputs["x"], **narrow, backend=backend), expected)
        expected = moe_combine(inputs["buffers"], inputs["gates"], **slots)
        torch.testing.assert_close(moe_combine(inputs["buffers"], inputs["gates"], **narrow, backend=backend), expected)


X, ROWS, GATES = torch.ones(4, 3), torch.ones(5, 3), torch.ones(4, 2)
Q, S = torch.full((5,), -1), torch.full((4, 2), -1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: moe_dispatch(torch.ones(3, 3), Q, S), r"same leading axes; got \(3, 3\) and \(4, 2\)"),
        (lambda: moe_dispatch(torch.ones(4, 0), Q, S), r"x must be \[..., C\], C > 0.* got \(4, 0\)"),
        (lambda: moe_dispatch(X.long(), Q, S), "x must be floating point, got torch.int64"),
        (lambda: moe_dispatch(X, Q[None], S), r"choice_of_slot must be \[Q\].* got \(1, 5\) and \(4, 2\)"),
        (lambda: moe_dispatch(X, Q.float(), S), "must be int32 or int64, got torch.float32 and torch.int64"),
        (lambda: moe_dispatch(X, Q, S.to("meta")), "tokens lie on cpu, the maps of their slots on cpu and meta"),
        (lambda: moe_combine(ROWS[1:], GATES, Q, S), r"buffers must be \[Q, C\].* got \(4, 3\) and \(5,\)"),
        (lambda: moe_combine(ROWS, GATES[:1], Q, S), r"gates and slot_of_choice must share one shape.*\(1, 2\)"),
        (lambda: moe_combine(ROWS, GATES.int(), Q, S), "must be floating point, got torch.float32 and torch.int32"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
