"""A gate that predicts what its choice changes, instead of being pushed by it."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gatedvision.layers.bounded_gradient import bound_elements


class _PredictedGain(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, scores: Tensor, chosen: Tensor, bound: float
    ) -> Tensor:
        ctx.save_for_backward(scores, chosen)
        ctx.bound = bound
        return chosen.to(scores.dtype)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor, None, None]:
        (grad,) = grads
        scores, chosen = ctx.saved_tensors
        known = chosen & (grad != 0)
        count = known.sum().clamp(min=1)
        loss = bound_elements(torch.where(known, grad, 0.0), ctx.bound)
        error = scores + loss / (loss.abs().sum() / count).clamp(min=torch.finfo(loss.dtype).tiny)
        mean = torch.where(known, error, 0.0).sum() / count
        return torch.where(known, (error - mean) / count, 0.0), None, None


def predict_gain(scores: Tensor, chosen: Tensor, bound: float) -> Tensor:
    """Return a choice whose gradient teaches the scores to predict what it costs.

    Where an element is chosen, the gradient of the choice is what that costs the loss. The scores learn to be the
    negative of it by least squares, so that the highest are those whose choice costs least. Gradients that pass
    straight through would push a score instead, and what it comes to would depend on how long it was pushed.

    Costs are taken in units of their mean size, none beyond ``bound`` times the median, and only their differences are
    learned: what all scores have in common gets no gradient. Nothing is learned from elements that are not chosen, nor
    from those whose gradient is 0. What choosing them would cost cannot be compared with what the chosen ones cost, as
    each is the change of one choice alone, to first order: for regions of MSViT it is lower by more than regions
    differ, and scores that learned from both came to nothing.

    Args:
        scores: of any shape, float32 or wider.
        chosen: bool of the same shape.
        bound: above 0.

    Returns:
        1 where chosen and 0 elsewhere, in the dtype of ``scores``.
    """
    return _PredictedGain.apply(scores, chosen, bound)  # pyright: ignore[reportReturnType]
