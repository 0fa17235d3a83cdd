"""Bidirectional gated linear attention (ViG, arXiv:2405.18425).

Per head, with queries q_i, keys k_i, values v_i and log-decays f_i, b_i <= 0 of token i::

    F_i = diag(exp f_i) F_(i-1) + k_i v_i^T        F_0     = 0
    R_i = diag(exp b_i) R_(i+1) + k_i v_i^T        R_(L+1) = 0
    o_i = scale / 2 * (F_i^T q_i + R_i^T q_i)

Shapes: B batch, L tokens, N heads, K query/key width, V value width.
"""

from typing import Optional

import torch
from torch import Tensor

from gatedvision_kernels.bidirectional_gla.reference import bidirectional_gla_reference

__all__ = ["bidirectional_gla", "bidirectional_gla_reference"]


def bidirectional_gla(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay_forward: Tensor,
    log_decay_backward: Tensor,
    *,
    scale: Optional[float] = None,
    backend: str = "auto",
) -> Tensor:
    """Attend in both directions with a gated, linearly growing memory.

    The mean of a left-to-right and a right-to-left scan that share queries, keys and values
    and have decays of their own (ViG, arXiv:2405.18425, section 3.2). A token's own decay
    acts on the state before its own key and value are added.

    Args:
        query: ``[B, L, N, K]``.
        key: ``[B, L, N, K]``.
        value: ``[B, L, N, V]``.
        log_decay_forward: ``[B, L, N, K]``, logarithm of the decay of the left-to-right state
            on entering each token, at most 0.
        log_decay_backward: ``[B, L, N, K]``, the same from right to left.
        scale: factor of the query, ``K ** -0.5`` by default.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        ``[B, L, N, V]`` in the dtype of ``value``.

    Raises:
        ValueError: if shapes disagree or the backend cannot run on these tensors.
    """
    return bidirectional_gla_reference(query, key, value, log_decay_forward, log_decay_backward, scale)
