"""Channel aggregation feed-forward."""

import torch
from torch import nn

from gatedvision.layers import ChannelAggregationFFN
from tests.layers.naive_moganet import depthwise, gelu


def test_against_the_formula() -> None:
    torch.manual_seed(0)
    layer = ChannelAggregationFFN(6, 10, dtype=torch.float64)
    nn.init.normal_(layer.scale)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    h = gelu(depthwise(layer.proj_in(x), layer.conv_dw, 1))
    h = h + layer.scale * (h - gelu(layer.proj_common(h)))
    torch.testing.assert_close(layer(x), layer.proj_out(h))


def test_autocast_applies_to_both_products() -> None:
    layer, x = ChannelAggregationFFN(6, 10), torch.randn(2, 3, 5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())


def test_reset_restores_the_scale() -> None:
    layer = ChannelAggregationFFN(6, 10)
    nn.init.zeros_(layer.scale)
    layer.reset_parameters()
    assert (layer.scale == 1e-5).all()
