"""Auxiliary losses that keep the experts of a mixture equally busy (arXiv:2106.05974, appendix A).

Shapes: S tokens that are judged together, E experts; leading axes are groups. ``present`` ``[..., S]`` is true for
tokens and false for the places that no token takes.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from gatedvision.layers._processes import num_processes


def squared_variation(x: Tensor) -> Tensor:
    """Return the squared coefficient of variation over the last axis, 0 where all are equal.

    No root is taken on the way, so that the gradient is finite there.
    """
    return x.var(-1, correction=0) / x.mean(-1).square()


def sum_over_batch(x: Tensor) -> Tensor:
    """Sum over the first axis, and over all processes where there are several.

    The processes' gradients are scaled for the average that data parallel training takes of them.
    """
    total = x.sum(0, keepdim=True)
    if num_processes() > 1:
        everyone = total.detach().clone()
        dist.all_reduce(everyone)
        total = everyone + num_processes() * (total - total.detach())
    return total


def importance_loss(gates: Tensor, present: Tensor, whole_batch: bool = False) -> Tensor:
    """Compare the experts' sums of gates.

    Args:
        gates: ``[..., S, E]``, softmax of the logits without noise.
        present: ``[..., S]``.
        whole_batch: sum over the first axis and over all processes before comparing.

    Returns:
        ``[...]``, the first axis of size 1 if ``whole_batch``.
    """
    importance = (gates * present.unsqueeze(-1)).sum(-2)
    return squared_variation(sum_over_batch(importance) if whole_batch else importance)


def load_loss(
    logits: Tensor, threshold: Tensor, noise_std: float, present: Tensor, whole_batch: bool = False
) -> Tensor:
    """Compare how probably each expert would be chosen if the noise were drawn again.

    Args:
        logits: ``[..., S, E]``, without noise.
        threshold: ``[..., S, 1]``, the noisy logit of the last expert chosen.
        noise_std: deviation of the noise, above 0.
        present: ``[..., S]``.
        whole_batch: sum over the first axis and over all processes before comparing.

    Returns:
        ``[...]``, the first axis of size 1 if ``whole_batch``.
    """
    chosen = torch.special.ndtr((logits - threshold) / noise_std)
    load = (chosen * present.unsqueeze(-1)).sum(-2)
    return squared_variation(sum_over_batch(load) if whole_batch else load)


def gshard_loss(gates: Tensor, present: Tensor, whole_batch: bool = False) -> Tensor:
    """Multiply the share of tokens that prefer an expert by its mean gate; 1 where all experts are equally busy.

    The gradient flows through the mean only (arXiv:2006.16668, section 2.2).

    Args:
        gates: ``[..., S, E]``, softmax of the logits that route, noise included.
        present: ``[..., S]``.
        whole_batch: average over the first axis and over all processes before multiplying.

    Returns:
        ``[...]``, the first axis of size 1 if ``whole_batch``.
    """
    num_experts = gates.shape[-1]
    weight = present.unsqueeze(-1)
    preferred = torch.nn.functional.one_hot(gates.detach().argmax(-1), num_experts).to(gates.dtype)
    sums = [(preferred * weight).sum(-2), (gates * weight).sum(-2), weight.sum(-2)]
    if whole_batch:
        sums = [sum_over_batch(x) for x in sums]
    preference, mass, count = sums
    return num_experts * (preference / count * (mass / count)).sum(-1)
