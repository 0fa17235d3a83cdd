"""Attention whose keys are switched on and off by gates that learn, through torch's fused attention."""

from math import exp, log2, sqrt
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

# Score of a key that is off, about: its exponential, 1e-21, vanishes beside that of any key that is on, and the
# gradients that it shrinks are still within float32's range.
CLOSED = -48.0


def key_gated_attention(
    query: Tensor, key: Tensor, value: Tensor, gates: Tensor, scale: Optional[float] = None, dropout: float = 0.0
) -> Tensor:
    """Attend to keys by softmax, each weighed by its gate: ``A_ij = exp(P_ij) G_j / sum_k exp(P_ik) G_k``.

    This is the rule of DynamicViT (arXiv:2106.02034, section 3.4) but for one term: there a token that is switched off
    still attends to itself. Nobody attends to such a token, so no output that counts depends on it; what differs
    slightly is the token that the gradient of its gate imagines back.

    The gates are 0 or 1, and their gradient is exact for both, which masks do not give: it says what a key that is off
    would have changed. Logarithms of the gates travel as one more channel of queries and keys; a matrix of them is
    never made. A gate of 0 counts as 1e-21 instead, which shows only where a key that is off has a score 30 and more
    above those of all that are on.

    Args:
        query: ``[B, N, L, D]``, N heads.
        key: ``[B, N, L, D]``.
        value: ``[B, N, L, D]``.
        gates: ``[B, L]``, 0 or 1, float32; at least one of each image is 1.
        scale: of the scores, ``D ** -0.5`` by default.
        dropout: of attention weights, 0 to 1.

    Returns:
        ``[B, N, L, D]`` in the dtype of ``value``.
    """
    width = query.shape[-1]
    scale = 1 / sqrt(width) if scale is None else scale
    dtype = query.dtype
    if dtype == torch.float16 and gates.requires_grad:
        # Its range is too short for the weight of a key that is off, and the gradient would be lost.
        query, key, value = query.float(), key.float(), value.float()
    # Both numbers of the channel's product, a power of two and a small integer, are exact in sixteen bits.
    unit = 2.0 ** round(log2(1 / scale)) * scale
    closed = exp(unit * round(CLOSED / unit))
    # 1 stays 1, so its logarithm is exactly 0.
    logs = torch.log(gates * (1 - closed) + closed) / unit
    # Fused attention wants widths that are multiples of 8, and one width for all three.
    spare = 8 - width % 8
    one = F.pad(query.new_full((1,), unit / scale), (0, spare - 1))
    channel = F.pad(logs.to(key.dtype)[:, None, :, None], (0, spare - 1))
    query, key, value = (
        torch.cat([x, more.expand(*x.shape[:-1], spare)], -1)
        for x, more in ((query, one), (key, channel), (value, value.new_zeros(spare)))
    )
    y = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=scale)
    return y[..., :width].to(dtype)


def key_gated_attention_reference(
    query: Tensor, key: Tensor, value: Tensor, gates: Tensor, scale: Optional[float] = None
) -> Tensor:
    """Define :func:`key_gated_attention`, by its formula, in float32 or wider."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    scale = 1 / sqrt(query.shape[-1]) if scale is None else scale
    scores = scale * (query.to(dtype) @ key.to(dtype).transpose(-2, -1))
    weights = (scores - scores.amax(-1, keepdim=True)).exp() * gates[:, None, None, :]
    return (weights @ value.to(dtype) / weights.sum(-1, keepdim=True)).to(value.dtype)
