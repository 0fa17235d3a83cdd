"""The linear layer of our own: nn.Linear in all but the library that computes it."""

import torch
from torch import nn

from gatedvision.layers.linear import Linear


def test_is_a_leaf_of_graphs() -> None:
    layer = nn.Sequential(Linear(3, 4))
    x = torch.randn(2, 3)
    assert torch.equal(torch.fx.symbolic_trace(layer)(x), layer(x))
    assert torch.equal(torch.jit.script(layer)(x), layer(x))
