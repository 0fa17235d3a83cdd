"""Upcycling: experts that begin as copies of a dense transformer's perceptrons (arXiv:2212.05055)."""

import re
from collections.abc import Mapping
from typing import Any, Union

from torch import Tensor, nn

from gatedvision.models._pretrained import _shorten
from gatedvision.models.vmoe import VMoE, fit_positions

_DENSE = re.compile(r"^(blocks\.(\d+)\.mlp\.)(fc[12])\.(weight|bias)$")


def upcycle(model: VMoE, dense: Union[nn.Module, Mapping[str, Any]]) -> VMoE:
    """Load a dense vision transformer of timm, every expert a copy of the perceptron in its place.

    Routers keep their weights. So does what the dense network lacks by nature: the layer before the head; and the head
    itself, if that of the dense network has other classes or none. Positions are resized to the model's grid. With
    ``num_selected`` equal to ``num_experts`` and slots for all, the result computes what the dense network does,
    provided that both have one activation (``act_layer="gelu"`` for most of timm's).

    Args:
        model: the network with experts; changed in place.
        dense: timm's network, or its state dict, bare or under ``model`` or ``state_dict``.

    Returns:
        The model.

    Raises:
        ValueError: if the two do not fit; the model is then unchanged.
    """
    state = dense.state_dict() if isinstance(dense, nn.Module) else dense
    for container in ("model", "state_dict"):
        if isinstance(state.get(container), Mapping):
            state = state[container]
    own = model.state_dict()
    layers = dict(model.expert_layers())
    weights: dict[str, Tensor] = {}
    for name, value in state.items():
        found = _DENSE.match(name)
        if found and int(found[2]) in layers:
            name = f"{found[1]}experts.{found[3]}.{found[4]}"
            # Experts' weights are laid out (in, out).
            value = value.transpose(0, -1)
            value = value.expand(len(own[name]), *value.shape)
        weights[name] = value
    heads = [name for name in weights if name.startswith("head.")]
    if any(name not in own or weights[name].shape != own[name].shape for name in heads):
        weights = {name: value for name, value in weights.items() if name not in heads}
    if "pos_embed" in weights:
        weights["pos_embed"] = fit_positions(weights["pos_embed"], model)
    _check_fit(own, weights)
    model.load_state_dict(weights, strict=False)
    return model


def _check_fit(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Compare names and shapes; routers, head and the layer before it need not be there.

    Raises:
        ValueError: if others are missing, unknown or of another shape.
    """
    may_lack = re.compile(r"^head\.|^pre_logits\.|\.mlp\.router\.")
    missing = [name for name in own if name not in weights and not may_lack.search(name)]
    unexpected = [name for name in weights if name not in own]
    if missing or unexpected:
        raise ValueError(
            f"the dense network does not fit: missing {_shorten(missing)}; unexpected {_shorten(unexpected)}; it must "
            f"have the blocks of the sparse one, a class token if that has one, and no layer scales"
        )
    other = [name for name, value in weights.items() if value.shape != own[name].shape]
    if other:
        shapes = f"{tuple(weights[other[0]].shape)} for {tuple(own[other[0]].shape)}"
        raise ValueError(f"the dense network has other sizes, as {other[0]}: {shapes}; take one of the same variant")
