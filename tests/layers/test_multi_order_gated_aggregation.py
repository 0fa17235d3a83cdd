"""Multi-order gated aggregation."""

import pytest
import torch
from torch import nn

from gatedvision.layers import MultiOrderGatedAggregation
from gatedvision.layers.multi_order_gated_aggregation import decompose_spatially, gated_product
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


def test_gradients_of_its_operators() -> None:
    torch.manual_seed(0)
    x, y = (torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    scale = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(decompose_spatially, (x, scale))
    assert torch.autograd.gradcheck(gated_product, (x, y))
    assert torch.autograd.gradcheck(lambda x, y: gated_product(x, y, double=True), (x, y))


def test_reset_restores_the_scale() -> None:
    layer = MultiOrderGatedAggregation(8)
    nn.init.zeros_(layer.scale)
    layer.reset_parameters()
    assert (layer.scale == 1e-5).all()
