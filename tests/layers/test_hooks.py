"""Layers whose linear layers were replaced, as adapters do, or have hooks: they are called, not read."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from gatedvision.layers._hooks import are_plain, has_hooks
from gatedvision.layers.channel_aggregation import ChannelAggregationFFN
from gatedvision.layers.gelu_mlp import GeluMlp
from gatedvision.layers.linear import Linear
from gatedvision.layers.multi_order_gated_aggregation import MultiOrderGatedAggregation
from gatedvision.layers.recursive_gated_conv import RecursiveGatedConv
from gatedvision.layers.swiglu import SwiGluMlp

LAYERS = {
    "SwiGluMlp": (lambda: SwiGluMlp(8, 16), ("proj_in", "proj_out")),
    "GeluMlp": (lambda: GeluMlp(8, 16), ("fc1", "fc2")),
    "MultiOrderGatedAggregation": (lambda: MultiOrderGatedAggregation(8), ("proj_in", "proj_gate", "proj_out")),
    "ChannelAggregationFFN": (lambda: ChannelAggregationFFN(8, 16), ("proj_in", "proj_common", "proj_out")),
    "RecursiveGatedConv": (lambda: RecursiveGatedConv(8, 3, scale=0.5), ("proj_in", "projs.0", "projs.1", "proj_out")),
}
PLACES = [(layer, name) for layer, (_, names) in LAYERS.items() for name in names]


class Adapted(nn.Module):
    """What adapters put in place of a layer: it shows the layer's weight, and adds to what that gives."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.more = nn.Linear(layer.in_features, layer.out_features, bias=False)

    @property
    def weight(self) -> Tensor:
        return self.layer.weight

    @property
    def bias(self) -> Tensor:
        return self.layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.more(x)


def build(layer: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    module = LAYERS[layer][0]()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module, torch.randn(2, 6, 5, 8)


def put(module: nn.Module, name: str, layer: nn.Module) -> None:
    place, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(place), leaf, layer)


@pytest.mark.parametrize(("layer", "name"), PLACES)
def test_replaced_layers_are_called(layer: str, name: str) -> None:
    module, x = build(layer)
    adapted = Adapted(module.get_submodule(name))  # pyright: ignore[reportArgumentType]
    merged = Linear(adapted.layer.in_features, adapted.layer.out_features, bias=adapted.layer.bias is not None)
    merged.load_state_dict(adapted.layer.state_dict())
    with torch.no_grad():
        merged.weight += adapted.more.weight
    put(module, name, merged)
    expected = module(x)
    put(module, name, adapted)
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5)
    module(x).sum().backward()
    assert adapted.more.weight.grad is not None and adapted.more.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("layer", "name"), PLACES)
def test_hooks_are_called_and_change_nothing(layer: str, name: str) -> None:
    module, x = build(layer)
    expected = module(x)
    seen: list[torch.Size] = []
    handle = module.get_submodule(name).register_forward_hook(lambda layer, inputs, output: seen.append(output.shape))
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5)
    assert len(seen) == 1 and seen[0][-1] == module.get_submodule(name).out_features
    handle.remove()
    assert torch.equal(module(x), expected)


@pytest.mark.parametrize(("layer", "name"), PLACES)
def test_pruned_weights_follow_their_mask(layer: str, name: str) -> None:
    module, x = build(layer)
    linear = module.get_submodule(name)
    prune.random_unstructured(linear, "weight", 0.5)
    before = module(x)
    with torch.no_grad():
        linear.weight_orig *= 2
    assert not torch.allclose(module(x), before)


def test_what_counts_as_plain() -> None:
    layer = Linear(3, 4)
    assert are_plain(layer, nn.Linear(3, 4)) and not has_hooks(layer)
    assert not are_plain(layer, Adapted(nn.Linear(3, 4)))
    layer.register_full_backward_hook(lambda *_: None)
    assert has_hooks(layer) and not are_plain(layer)
