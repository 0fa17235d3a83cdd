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

from gatedvision_kernels._dispatch import use_triton
from gatedvision_kernels.bidirectional_gla.operator import bidirectional_gla_triton
from gatedvision_kernels.bidirectional_gla.reference import bidirectional_gla_reference

__all__ = ["bidirectional_gla", "bidirectional_gla_reference"]

KEY_WIDTHS = (16, 32, 64)
VALUE_WIDTHS = (32, 64, 128)


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
            on entering each token, finite and at most 0.
        log_decay_backward: ``[B, L, N, K]``, the same from right to left.
        scale: factor of the query, ``K ** -0.5`` by default.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        ``[B, L, N, V]`` in the dtype of ``value``.

    Raises:
        ValueError: if shapes disagree or the backend cannot run on these tensors.
    """
    _check(query, key, value, log_decay_forward, log_decay_backward)
    tensors = (query, key, value, log_decay_forward, log_decay_backward)
    supported = query.shape[3] in KEY_WIDTHS and value.shape[3] in VALUE_WIDTHS
    if backend == "triton" and not supported:
        raise ValueError(
            f"backend='triton' has kernels for K in {KEY_WIDTHS} and V in {VALUE_WIDTHS}, "
            f"got K={query.shape[3]} and V={value.shape[3]}; use backend='auto'"
        )
    factor = query.shape[3] ** -0.5 if scale is None else scale
    if use_triton(backend, *tensors) and supported:
        return bidirectional_gla_triton(*tensors, factor)
    if backend == "auto" and supported and all(x.is_meta for x in tensors):
        # Nothing is computed, and what is counted is the recurrence.
        return torch.ops.gatedvision.bidirectional_gla(*tensors, factor)[0]
    return bidirectional_gla_reference(*tensors, scale)


def _check(query: Tensor, key: Tensor, value: Tensor, log_decay_forward: Tensor, log_decay_backward: Tensor) -> None:
    if query.ndim != 4 or 0 in query.shape[1:]:
        raise ValueError(f"query must be [B, L, N, K] with at least one token, got {list(query.shape)}")
    named = {"key": key, "log_decay_forward": log_decay_forward, "log_decay_backward": log_decay_backward}
    for name, x in named.items():
        if x.shape != query.shape:
            raise ValueError(f"{name} must have the shape of query {list(query.shape)}, got {list(x.shape)}")
    if value.ndim != 4 or value.shape[:3] != query.shape[:3]:
        raise ValueError(f"value must be [B, L, N, V] beside query {list(query.shape)}, got {list(value.shape)}")
