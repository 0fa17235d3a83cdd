"""Layers of others turned into ours: all stays but their class."""

import torch
from torch import Tensor, nn

from gatedvision.layers.convert_layers import convert_layers
from gatedvision.layers.image_conv import ImageConv
from gatedvision.layers.linear import Linear


def test_linear_layers_keep_all_but_their_class() -> None:
    class Special(nn.Linear):
        pass

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU()), Special(5, 6))
    x = torch.randn(2, 3)
    expected, names = network(x), list(network.state_dict())
    seen = []
    network[0].register_forward_hook(lambda module, inputs, y: seen.append(y))
    convert_layers(network, nn.Linear, Linear)
    assert [type(layer) for layer in (network[0], network[1][0], network[2])] == [Linear, Linear, Special]
    assert torch.equal(network(x), expected) and list(network.state_dict()) == names and len(seen) == 1


def test_convolutions_keep_all_but_their_class() -> None:
    class Special(nn.Conv2d):
        pass

    network = nn.Sequential(nn.Conv2d(3, 4, 4, 4), Special(4, 5, 1))
    x = torch.randn(2, 3, 8, 8)
    expected: Tensor = network(x)
    names = list(network.state_dict())
    convert_layers(network, nn.Conv2d, ImageConv)
    assert [type(layer) for layer in network] == [ImageConv, Special]
    assert torch.equal(network(x), expected) and list(network.state_dict()) == names
