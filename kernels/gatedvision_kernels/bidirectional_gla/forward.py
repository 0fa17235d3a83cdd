"""Forward kernel of bidirectional gated linear attention: one program per head and chunk."""
# pyright: reportArgumentType=false, reportPossiblyUnboundVariable=false

from __future__ import annotations

from typing import Any

from torch import Tensor

from gatedvision_kernels._operator import launcher
from gatedvision_kernels._rows import ceil_div
from gatedvision_kernels._triton import jit, tl
from gatedvision_kernels.bidirectional_gla._levels import (
    decays,
    exp2,
    is_shallow,
    log_since_entry,
    meets,
)
from gatedvision_kernels.bidirectional_gla.states import CHUNK

# A single warp needs no barriers: on an H200, 128 x 196 tokens of 6 heads, K = 32 and V = 64 in bfloat16 took 53 us
# with one and 60 us with two; with 168 registers a thread, so that more programs fit in, 77 and 57 us.
LAUNCH = {"num_warps": 1}


@jit
def _weigh_one_way(
    q,
    k,
    log_decay,
    since_entry,
    shallow,
    r,
    REVERSE: tl.constexpr,
    LEVELS: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    GATE_PRECISION: tl.constexpr,
    FLUSH: tl.constexpr,
):
    """Return the weights of one direction, the diagonal included, and the queries decayed since the chunk's entry."""
    query, key = r[:, None], r[None, :]
    q_entry = (q * exp2(since_entry, FLUSH)).to(OPERAND)
    if shallow:
        ahead = (query <= key) if REVERSE else (query >= key)
        k_entry = (k * exp2(-since_entry, FLUSH)).to(OPERAND)
        product = tl.dot(q_entry, tl.trans(k_entry), input_precision=PRECISION)
        weights = tl.where(ahead, product, 0.0)
    else:
        weights = tl.where(query == key, tl.dot(q, tl.trans(k), input_precision=PRECISION), 0.0)
        for level in range(LEVELS):
            inward, outward = decays(log_decay, r, level, REVERSE, GATE_PRECISION, FLUSH)
            q_level = (q * inward).to(OPERAND)
            k_level = (k * outward).to(OPERAND)
            product = tl.dot(q_level, tl.trans(k_level), input_precision=PRECISION)
            weights = tl.where(meets(query, key, level, REVERSE), product, weights)
    return weights, q_entry


# Lengths vary; a form for each kind of number would be compiled again and again.
@jit(do_not_specialize=("length", "chunks"))
def _forward_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    log_decay_forward_ptr,
    log_decay_backward_ptr,
    states_ptr,  # [2, B * N, T, K, V]
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
    # Code that torch.compile writes passes numbers in double precision.
    scale = tl.cast(scale, tl.float32)
    chunk = tl.program_id(0) % chunks
    row = (tl.program_id(0) // chunks).to(tl.int64)
    batch = row // heads
    head = row % heads
    r = tl.arange(0, C)
    d_k = tl.arange(0, K)
    d_v = tl.arange(0, V)
    start = batch * length + chunk * C
    inside = (chunk * C + r < length)[:, None]
    q_ptr += start * stride_q + head * K
    k_ptr += start * stride_k + head * K
    v_ptr += start * stride_v + head * V
    log_decay_forward_ptr += start * stride_f + head * K
    log_decay_backward_ptr += start * stride_b + head * K
    q = tl.load(q_ptr + (r[:, None] * stride_q + d_k[None, :]), mask=inside, other=0.0).to(OPERAND)
    k = tl.load(k_ptr + (r[:, None] * stride_k + d_k[None, :]), mask=inside, other=0.0).to(OPERAND)
    v = tl.load(v_ptr + (r[:, None] * stride_v + d_v[None, :]), mask=inside, other=0.0).to(OPERAND)
    log_decay_forward = tl.load(
        log_decay_forward_ptr + (r[:, None] * stride_f + d_k[None, :]), mask=inside, other=0.0
    ).to(GATE)
    log_decay_backward = tl.load(
        log_decay_backward_ptr + (r[:, None] * stride_b + d_k[None, :]), mask=inside, other=0.0
    ).to(GATE)

    if HAS_STATES:
        # Loaded long before they are needed, while the one warp would wait.
        states_ptr += (row * chunks + chunk) * K * V + d_k[:, None] * V + d_v[None, :]
        from_left = tl.load(states_ptr).to(OPERAND)
        states_ptr += (tl.num_programs(0) // chunks).to(tl.int64) * chunks * K * V
        from_right = tl.load(states_ptr).to(OPERAND)

    since_left = log_since_entry(log_decay_forward, r, False, GATE_PRECISION)
    since_right = log_since_entry(log_decay_backward, r, True, GATE_PRECISION)
    shallow = is_shallow(since_left, since_right)
    # Both directions give the diagonal its full weight.
    weights, q_forward = _weigh_one_way(
        q, k, log_decay_forward, since_left, shallow, r, False, LEVELS, OPERAND, PRECISION, GATE_PRECISION, FLUSH
    )
    more_weights, q_backward = _weigh_one_way(
        q, k, log_decay_backward, since_right, shallow, r, True, LEVELS, OPERAND, PRECISION, GATE_PRECISION, FLUSH
    )
    weights += more_weights
    o = tl.dot(weights.to(OPERAND), v, input_precision=PRECISION)
    if HAS_STATES:
        o = tl.dot(q_forward, from_left, o, input_precision=PRECISION)
        o = tl.dot(q_backward, from_right, o, input_precision=PRECISION)
    o_ptr += (start * heads + head) * V
    tl.store(o_ptr + (r[:, None] * heads * V + d_v[None, :]), (o * scale).to(o_ptr.dtype.element_ty), mask=inside)


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
        states: ``[2, B * N, T, K, V]``; not read if there is but one chunk.
        scale: factor of the sum of both directions.
        formats: the kernels' constants of their matrix products.

    Returns:
        ``[B, L, N, V]`` in the dtype of ``value``.
    """
    batch, length, heads, width = query.shape
    chunks = ceil_div(length, CHUNK)
    output = value.new_empty(value.shape)
    launcher(_forward_kernel)[(batch * heads * chunks,)](
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
        HAS_STATES=chunks > 1,
        K=width,
        V=value.shape[3],
        C=CHUNK,
        LEVELS=CHUNK.bit_length() - 1,
        **formats,
        **LAUNCH,
    )
    return output
