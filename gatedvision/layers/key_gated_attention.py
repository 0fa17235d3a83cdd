"""Attention whose keys are switched on and off by gates that learn, through torch's fused attention."""

from math import sqrt
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gatedvision_kernels import key_gains

# Added to the scores of a key that is off, about: its exponential is 0 beside that of any key that is on.
CLOSED = -1000.0


def key_gated_attention(
    query: Tensor, key: Tensor, value: Tensor, gates: Tensor, scale: Optional[float] = None, dropout: float = 0.0
) -> Tensor:
    """Attend to keys by softmax, each weighed by its gate: ``A_ij = exp(P_ij) G_j / sum_k exp(P_ik) G_k``.

    This is the rule of DynamicViT (arXiv:2106.02034, section 3.4) but for one term: there a token that is switched off
    still attends to itself. Nobody attends to such a token, so no output that counts depends on it; what differs
    slightly is the token that the gradient of its gate imagines back.

    The gates are 0 or 1, and masks would give them no gradient. Here that of a gate is what its key changes
    (:func:`~gatedvision_kernels.key_gains`): the derivative for one that is on, and what switching it on would do for
    one that is off. The derivative of a gate that is off tells little of that: over twelve blocks of a ViT-S the change
    of the loss correlated with it to 0.03, and to 0.88 with the other.

    Fused attention knows nothing of gates: they travel as one more channel of queries and keys.

    Args:
        query: ``[B, N, L, D]``, N heads.
        key: ``[B, N, L, D]``.
        value: ``[B, N, L, D]``.
        gates: ``[B, L]``, 0 or 1, float32; at least one of each image is 1.
        scale: of the scores, ``D ** -0.5`` by default.
        dropout: of attention weights, 0 to 1; the gates' gradient leaves it out.

    Returns:
        ``[B, N, L, D]`` in the dtype of ``value``.
    """
    width = query.shape[-1]
    scale = 1 / sqrt(width) if scale is None else scale
    # Fused attention wants widths that are multiples of 8, and one width for all three.
    spare = 8 - width % 8
    one = F.pad(query.new_full((1,), 1 / scale), (0, spare - 1))
    closed = ((1 - gates.detach()) * CLOSED).to(key.dtype)
    channel = F.pad(closed[:, None, :, None], (0, spare - 1))
    wide_query, wide_key, wide_value = (
        torch.cat([x, more.expand(*x.shape[:-1], spare)], -1)
        for x, more in ((query, one), (key, channel), (value, value.new_zeros(spare)))
    )
    y = F.scaled_dot_product_attention(wide_query, wide_key, wide_value, dropout_p=dropout, scale=scale)
    y = y[..., :width]
    if gates.requires_grad:
        y: Any = _WithGates.apply(y, gates, query.detach(), key.detach(), value.detach(), scale)
    return y


class _WithGates(torch.autograd.Function):
    """The output itself, whose gradient reaches the gates, too."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, y: Tensor, gates: Tensor, query: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> Tensor:
        ctx.scale = scale
        ctx.save_for_backward(y, gates, query, key, value)
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Optional[Tensor], ...]:
        (grad,) = grads
        y, gates, *inputs = ctx.saved_tensors
        query, key, value, output, doutput = (x.transpose(1, 2) for x in (*inputs, y, grad))
        gains = key_gains(query, key, value, output, doutput, gates, scale=ctx.scale)
        return grad, gains.to(gates.dtype), None, None, None, None


def key_gated_attention_reference(
    query: Tensor, key: Tensor, value: Tensor, gates: Tensor, scale: Optional[float] = None
) -> Tensor:
    """Define :func:`key_gated_attention`, by its formula, in float32 or wider."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    scale = 1 / sqrt(query.shape[-1]) if scale is None else scale
    scores = scale * (query.to(dtype) @ key.to(dtype).transpose(-2, -1))
    fixed = gates.detach()[:, None, None, :]
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    total = (weights * fixed).sum(-1, keepdim=True)
    y = weights * fixed @ value.to(dtype) / total
    # With one more key of weight w the output moves by w / (total + w) of the way to its value. Nothing is added here
    # but the gradient.
    share = (weights / (total + weights * (1 - fixed))).detach()
    moves = (gates[:, None, None, :] - fixed) * share
    return (y + moves @ value.detach().to(dtype) - moves.sum(-1, keepdim=True) * y.detach()).to(value.dtype)
