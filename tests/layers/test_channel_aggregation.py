"""Channel aggregation feed-forward."""

import torch
from torch import nn

from gatedvision.layers import ChannelAggregationFFN
from gatedvision.layers.channel_aggregation import decompose_channels
from tests.layers.naive_moganet import depthwise, gelu


def test_against_the_formula() -> None:
    torch.manual_seed(0)
    layer = ChannelAggregationFFN(6, 10, dtype=torch.float64)
    nn.init.normal_(layer.scale)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    h = gelu(depthwise(layer.proj_in(x), layer.conv_dw, 1))
    h = h + layer.scale * (h - gelu(layer.proj_common(h)))
    torch.testing.assert_close(layer(x), layer.proj_out(h))


def test_gradients_of_its_operator() -> None:
    torch.manual_seed(0)
    x, common = (torch.randn(2, 3, channels, dtype=torch.float64, requires_grad=True) for channels in (4, 1))
    scale = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(decompose_channels, (x, common, scale))


def test_reset_restores_the_scale() -> None:
    layer = ChannelAggregationFFN(6, 10)
    nn.init.zeros_(layer.scale)
    layer.reset_parameters()
    assert (layer.scale == 1e-5).all()
