"""Attention with gated keys: against its formula, with the gradients of gates that are off, in every dtype."""

from collections.abc import Callable
from typing import Optional

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gatedvision.layers.key_gated_attention import key_gated_attention, key_gated_attention_reference


def make(width: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(width)
    query, key, value = torch.randn(3, 2, 3, 9, width, generator=generator, dtype=torch.float64).to(dtype)
    gates = (torch.rand(2, 9, generator=generator) > 0.5).to(torch.promote_types(dtype, torch.float32))
    gates[:, 0] = 1
    return [query * 2, key, value, gates]


def gradients(call: Callable[..., Tensor], inputs: list[Tensor], scale: Optional[float]) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = call(*leaves, scale=scale)
    seed = torch.randn(y.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(y)
    return [y.detach(), *torch.autograd.grad(y, leaves, seed)]


@pytest.mark.parametrize(("width", "scale"), [(4, None), (8, None), (13, 0.3), (32, None), (64, None), (16, 0.6)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-9), (torch.float32, 2e-5), (torch.bfloat16, 0.03), (torch.float16, 4e-3)],
)
def test_outputs_and_gradients(width: int, scale: Optional[float], dtype: torch.dtype, tolerance: float) -> None:
    inputs = make(width, dtype)
    actual = gradients(key_gated_attention, inputs, scale)
    expected = gradients(key_gated_attention_reference, [x.double() for x in inputs], scale)
    assert actual[0].dtype == dtype
    for name, x, y in zip(("y", "query", "key", "value", "gates"), actual, expected, strict=True):
        torch.testing.assert_close(x.double(), y, rtol=tolerance, atol=tolerance * float(y.abs().max()), msg=name)
    # Gates that are off learn no less than those that are on.
    size = [float(expected[4][inputs[3] == on].abs().mean()) for on in (0, 1)]
    assert size[0] > 0.2 * size[1] > 0


def test_reference_is_attention_to_keys_that_are_on() -> None:
    query, key, value, gates = make(8)
    y = key_gated_attention_reference(query, key, value, gates)
    torch.testing.assert_close(
        y, F.scaled_dot_product_attention(query, key, value, attn_mask=gates.bool()[:, None, None])
    )


def test_gradient_of_a_gate_that_is_on_is_its_derivative() -> None:
    query, key, value, gates = make(8)
    seed = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    slope = slopes(query, key, value, gates, seed)
    scores = query @ key.transpose(-2, -1) / 8**0.5
    step = 1e-6
    for image, token in ((0, 0), (1, 0)):
        nudged = []
        for sign in (1, -1):
            moved = gates.clone()
            moved[image, token] += sign * step
            weights = scores.exp() * moved[:, None, None]
            nudged.append((weights @ value / weights.sum(-1, keepdim=True) * seed).sum())
        torch.testing.assert_close(slope[image, token], (nudged[0] - nudged[1]) / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("size", [2.0, 40.0])
def test_gradient_of_a_gate_that_is_off_is_what_opening_it_changes(size: float) -> None:
    query, key, value, gates = make(8)
    query = query * size
    seed = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    slope = slopes(query, key, value, gates, seed)
    before = (key_gated_attention(query, key, value, gates) * seed).sum()
    for image, token in (gates == 0).nonzero().tolist():
        moved = gates.clone()
        moved[image, token] = 1
        change = (key_gated_attention(query, key, value, moved) * seed).sum() - before
        torch.testing.assert_close(slope[image, token], change, rtol=1e-9, atol=1e-9)


def slopes(query: Tensor, key: Tensor, value: Tensor, gates: Tensor, seed: Tensor) -> Tensor:
    gates = gates.clone().requires_grad_()
    return torch.autograd.grad((key_gated_attention(query, key, value, gates) * seed).sum(), gates)[0]


def test_keys_that_are_off_do_not_matter() -> None:
    query, key, value, gates = make(16, torch.float32)
    off = gates == 0
    key = torch.where(off[:, None, :, None], key + 1, key)
    value = torch.where(off[:, None, :, None], value + 100, value)
    expected = key_gated_attention(*make(16, torch.float32))
    torch.testing.assert_close(key_gated_attention(query, key, value, gates), expected, rtol=0, atol=1e-6)


def test_dropout_takes_whole_weights() -> None:
    query, key, value, gates = make(8, torch.float32)
    torch.manual_seed(0)
    dropped = torch.stack([key_gated_attention(query, key, value, gates, dropout=0.5) for _ in range(400)])
    assert (dropped[0] - dropped[1]).abs().max() > 0.1
    expected = key_gated_attention(query, key, value, gates)
    torch.testing.assert_close(dropped.mean(0), expected, rtol=0, atol=0.4)
