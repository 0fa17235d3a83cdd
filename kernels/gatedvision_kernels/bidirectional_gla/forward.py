"""Forward kernel of bidirectional gated linear attention: one program per head and chunk."""
# pyright: reportArgumentType=false

from __future__ import annotations

from typing import Any

from torch import Tensor

from gatedvision_kernels._rows import ceil_div
from gatedvision_kernels._triton import jit, tl
from gatedvision_kernels.bidirectional_gla._levels import decays, meets
from gatedvision_kernels.bidirectional_gla.states import CHUNK, state_slots


@jit
def _attend_one_way(
    weights,
    q,
    k,
    log_decay,
    r,
    REVERSE: tl.constexpr,
    LEVELS: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    GATE_PRECISION: tl.constexpr,
    FLUSH: tl.constexpr,
):
    """Fill one triangle of the weights; return them and the queries decayed since the chunk's entry."""
    for level in range(LEVELS):
        inward, outward = decays(log_decay, r, level, REVERSE, GATE_PRECISION, FLUSH)
        q_level = (q * inward).to(OPERAND)
        k_level = (k * outward).to(OPERAND)
        product = tl.dot(q_level, tl.trans(k_level), input_precision=PRECISION)
        weights = tl.where(meets(r[:, None], r[None, :], level, REVERSE), product, weights)
    inward, outward = decays(log_decay, r, LEVELS, REVERSE, GATE_PRECISION, FLUSH)
    return weights, (q * inward).to(OPERAND)


@jit
def _forward_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    log_decay_forward_ptr,
    log_decay_backward_ptr,
    states_ptr,  # [2, B * N, slots, K, V]
    o_ptr,  # [B, L, N, V], contiguous
    scale,
    length,
    heads,
    stride_q,  # between tokens, as the strides below
    stride_k,
    stride_v,
    stride_f,
    stride_b,
    chunks,
    slots,
    HAS_STATES: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    LEVELS: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    GATE: tl.constexpr,
    GATE_PRECISION: tl.constexpr,
    FLUSH: tl.constexpr,
):
    chunk = tl.program_id(0) % chunks
    row = (tl.program_id(0) // chunks).to(tl.int64)
    batch = row // heads
    head = row % heads
    r = tl.arange(0, C)
    d_k = tl.arange(0, K)
    d_v = tl.arange(0, V)
    t = (chunk * C + r).to(tl.int64)[:, None]
    inside = t < length
    q_ptr += batch * length * stride_q + head * K + t * stride_q + d_k[None, :]
    k_ptr += batch * length * stride_k + head * K + t * stride_k + d_k[None, :]
    v_ptr += batch * length * stride_v + head * V + t * stride_v + d_v[None, :]
    log_decay_forward_ptr += batch * length * stride_f + head * K + t * stride_f + d_k[None, :]
    log_decay_backward_ptr += batch * length * stride_b + head * K + t * stride_b + d_k[None, :]
    q = tl.load(q_ptr, mask=inside, other=0.0).to(OPERAND)
    k = tl.load(k_ptr, mask=inside, other=0.0).to(OPERAND)
    v = tl.load(v_ptr, mask=inside, other=0.0).to(OPERAND)
    log_decay_forward = tl.load(log_decay_forward_ptr, mask=inside, other=0.0).to(GATE)
    log_decay_backward = tl.load(log_decay_backward_ptr, mask=inside, other=0.0).to(GATE)

    # Both directions give the diagonal its full weight.
    weights = 2.0 * tl.dot(q, tl.trans(k), input_precision=PRECISION)
    weights = tl.where(r[:, None] == r[None, :], weights, 0.0)
    weights, q_forward = _attend_one_way(
        weights, q, k, log_decay_forward, r, False, LEVELS, OPERAND, PRECISION, GATE_PRECISION, FLUSH
    )
    weights, q_backward = _attend_one_way(
        weights, q, k, log_decay_backward, r, True, LEVELS, OPERAND, PRECISION, GATE_PRECISION, FLUSH
    )
    o = tl.dot(weights.to(OPERAND), v, input_precision=PRECISION)
    if HAS_STATES:
        states_ptr += (row * slots + chunk) * K * V + d_k[:, None] * V + d_v[None, :]
        o = tl.dot(q_forward, tl.load(states_ptr).to(OPERAND), o, input_precision=PRECISION)
        states_ptr += (tl.num_programs(0) // chunks).to(tl.int64) * slots * K * V
        o = tl.dot(q_backward, tl.load(states_ptr).to(OPERAND), o, input_precision=PRECISION)
    o_ptr += ((batch * length + t) * heads + head) * V + d_v[None, :]
    tl.store(o_ptr, (o * scale).to(o_ptr.dtype.element_ty), mask=inside)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay_forward: Tensor,
    log_decay_backward: Tensor,
    states: Tensor,
    scale: float,
    *,
    formats: dict[str, Any],
) -> Tensor:
    """Launch the forward kernel.

    Args:
        query: ``[B, L, N, K]``; each token's heads contiguous, as of the next four.
        key: ``[B, L, N, K]``.
        value: ``[B, L, N, V]``.
        log_decay_forward: ``[B, L, N, K]``.
        log_decay_backward: ``[B, L, N, K]``.
        states: ``[2, B * N, slots, K, V]``; not read if there is but one chunk.
        scale: factor of the sum of both directions.
        formats: the kernels' constants of their matrix products.

    Returns:
        ``[B, L, N, V]`` in the dtype of ``value``.
    """
    batch, length, heads, width = query.shape
    chunks = ceil_div(length, CHUNK)
    output = value.new_empty(value.shape)
    _forward_kernel[(batch * heads * chunks,)](
        query,
        key,
        value,
        log_decay_forward,
        log_decay_backward,
        states,
        output,
        scale,
        length,
        heads,
        query.stride(1),
        key.stride(1),
        value.stride(1),
        log_decay_forward.stride(1),
        log_decay_backward.stride(1),
        chunks,
        state_slots(length),
        HAS_STATES=chunks > 1,
        K=width,
        V=value.shape[3],
        C=CHUNK,
        LEVELS=CHUNK.bit_length() - 1,
        **formats,
        num_warps=1,
    )
    return output
