"""Multi-order gated aggregation."""

import pytest
import torch
from torch import nn

from gatedvision.layers import MultiOrderGatedAggregation
from tests.layers.naive_moganet import multi_order, silu


@pytest.mark.parametrize("double_gate", [False, True])
def test_against_the_formula(double_gate: bool) -> None:
    torch.manual_seed(0)
    layer = MultiOrderGatedAggregation(8, double_gate=double_gate, dtype=torch.float64)
    nn.init.normal_(layer.scale)
    x = torch.randn(2, 4, 7, 8, dtype=torch.float64)

    y = layer.proj_in(x)
    mean = y.sum((1, 2), keepdim=True) / 28
    y = silu(y + layer.scale * (y - mean))
    gate, value = silu(layer.proj_gate(y)), silu(multi_order(y, layer.value, (1, 2, 3), (1, 3, 4)))
    if double_gate:
        gate, value = silu(gate), silu(value)
    torch.testing.assert_close(layer(x), layer.proj_out(gate * value) + x)


def test_autocast_applies_to_all_products() -> None:
    layer, x = MultiOrderGatedAggregation(8), torch.randn(2, 4, 7, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x.bfloat16())
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())


def test_reset_restores_the_scale() -> None:
    layer = MultiOrderGatedAggregation(8)
    nn.init.zeros_(layer.scale)
    layer.reset_parameters()
    assert (layer.scale == 1e-5).all()
