"""V-MoE in plain PyTorch (arXiv:2106.05974): timm's blocks, and two forms of experts.

Shapes: S tokens of a group, C channels, E experts, K choices of a token.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gatedvision.layers.moe import MoeMlp
from gatedvision.layers.moe_routers import TopKRouter
from gatedvision.layers.moe_routing import shape_of_groups
from gatedvision.models.vmoe import VMoE

# Take the rows of a group, the K gates and experts of each, and the slots of an expert.
Experts = Callable[[MoeMlp, Tensor, Tensor, Tensor, int], Tensor]


def plain_vmoe(model: VMoE) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the forward pass with experts one after the other on what chose them, and on buffers of fixed size.

    Args:
        model: whose parameters are used, in evaluation.

    Raises:
        ValueError: if it routes in another way than registered models do.
    """
    for _, layer in model.expert_layers():
        router = layer.router
        usual = isinstance(router, TopKRouter) and router.num_members == 1 and router.eval_priority == "vanilla"
        if not usual or router.eval_capacity_factor == float("inf"):
            raise ValueError("the plain form is for tokens that choose, in their order, within a capacity")
    forms: dict[str, Experts] = {"expert after expert": run_one_by_one, "buffers": run_in_buffers}
    return {name: partial(_run, model, experts) for name, experts in forms.items()}


def _run(model: Any, experts: Experts, image: Tensor) -> Tensor:
    x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(image))))
    for block in model.blocks:
        if isinstance(block.mlp, MoeMlp):
            x = x + block.attn(block.norm1(x))
            x = x + _route(block.mlp, experts, block.norm2(x))
        else:
            x = block(x)
    return model.forward_head(model.norm(x))


def _route(layer: Any, experts: Experts, x: Tensor) -> Tensor:
    router = layer.router
    _, images = shape_of_groups(len(x), router.group_images)
    capacity = router.capacity(images * x.shape[1] * router.num_selected)
    gates, chosen = F.linear(x, router.weight).softmax(-1).topk(router.num_selected, -1)
    made = [
        experts(layer, rows.flatten(0, 1), weights.flatten(0, 1), choices.flatten(0, 1), capacity)
        for rows, weights, choices in zip(x.split(images), gates.split(images), chosen.split(images), strict=True)
    ]
    return torch.cat(made).view(x.shape)


def run_one_by_one(layer: MoeMlp, x: Tensor, gates: Tensor, chosen: Tensor, capacity: int) -> Tensor:
    """Let each expert compute its tokens ``[S, C]``, first choices before second ones, and add up the results."""
    y = torch.zeros_like(x)
    first, second = layer.experts.fc1, layer.experts.fc2
    # Rank by rank.
    gates, chosen = gates.T.flatten(), chosen.T.flatten()
    for expert in range(layer.router.num_experts):
        places = (chosen == expert).nonzero().squeeze(1)[:capacity]
        tokens = places % len(x)
        hidden = torch.addmm(first.bias[expert], x.index_select(0, tokens), first.weight[expert])
        made = torch.addmm(second.bias[expert], layer.experts.act(hidden), second.weight[expert])
        y.index_add_(0, tokens, made.mul_(gates[places].unsqueeze(1)))
    return y


def run_in_buffers(layer: MoeMlp, x: Tensor, gates: Tensor, chosen: Tensor, capacity: int) -> Tensor:
    """Let all experts compute as many rows; arguments are those of :func:`run_one_by_one`."""
    (size, num_choices), num_experts = chosen.shape, layer.router.num_experts
    chosen = chosen.T.flatten()
    turns = F.one_hot(chosen, num_experts).cumsum(0).gather(1, chosen.unsqueeze(1)).squeeze(1) - 1
    # What has no slot meets in one behind all others, and empty slots take a row of zeros behind all tokens.
    slots = torch.where(turns < capacity, chosen * capacity + turns, num_experts * capacity)
    tokens = torch.full((num_experts * capacity + 1,), size)
    tokens[slots] = torch.arange(size).repeat(num_choices)
    buffers = F.pad(x, (0, 0, 0, 1)).index_select(0, tokens[:-1]).unflatten(0, (num_experts, capacity))
    first, second = layer.experts.fc1, layer.experts.fc2
    hidden = layer.experts.act(torch.baddbmm(first.bias.unsqueeze(1), buffers, first.weight))
    made = torch.baddbmm(second.bias.unsqueeze(1), hidden, second.weight).flatten(0, 1)
    made = F.pad(made, (0, 0, 0, 1)).index_select(0, slots).view(num_choices, size, -1)
    return (gates.T.unsqueeze(-1) * made).sum(0)
