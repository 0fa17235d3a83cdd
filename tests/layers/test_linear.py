"""The linear layer of our own: nn.Linear in all but the library that computes it."""

import torch
from torch import nn

from gatedvision.layers.linear import Linear, convert_linears


def test_converted_layers_keep_all_but_their_class() -> None:
    class Special(nn.Linear):
        pass

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU()), Special(5, 6))
    x = torch.randn(2, 3)
    expected, names = network(x), list(network.state_dict())
    seen = []
    network[0].register_forward_hook(lambda module, inputs, y: seen.append(y))
    convert_linears(network)
    assert [type(layer) for layer in (network[0], network[1][0], network[2])] == [Linear, Linear, Special]
    assert torch.equal(network(x), expected) and list(network.state_dict()) == names and len(seen) == 1


def test_is_a_leaf_of_graphs() -> None:
    layer = nn.Sequential(Linear(3, 4))
    x = torch.randn(2, 3)
    assert torch.equal(torch.fx.symbolic_trace(layer)(x), layer(x))
    assert torch.equal(torch.jit.script(layer)(x), layer(x))
