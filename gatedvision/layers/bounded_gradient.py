"""A bound on the gradient of single elements, for gates whose gradient grows exponentially with scores."""

from typing import Any

import torch
from torch import Tensor


class _BoundedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.bound = bound
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return bound_elements(grad, ctx.bound), None


def bound_elements(x: Tensor, bound: float) -> Tensor:
    """Cut what is larger than so many times the median size of all elements that are not 0."""
    sizes = torch.where(x == 0, torch.nan, x.abs())
    # Where nothing is but zeros, there is no median, and nothing to bound.
    limit = (bound * sizes.nanmedian()).nan_to_num()
    return x.clamp(-limit, limit)


def bound_gradient(x: Tensor, bound: float) -> Tensor:
    """Return the tensor itself; no element of its gradient is to be larger than so many times the median.

    The median is that of the sizes of all elements that have a gradient, so the bound follows any scale of the loss.

    Args:
        x: of any shape.
        bound: above 0.
    """
    return _BoundedGradient.apply(x, bound)  # pyright: ignore[reportReturnType]
