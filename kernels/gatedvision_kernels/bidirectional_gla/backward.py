"""Backward kernel of bidirectional gated linear attention: one program per chunk and head.

With A the C x C weights of a chunk, dA_ij = do_i . v_j is pushed through the same factors of the decays as in
the forward pass. The gradient of a log-decay sums q dq - k dk over the tokens on its far side, direction
by direction: inside the chunk from float32 values, beyond it as the product of the state that leaves
the chunk with the adjoint state that comes to meet it, so that no rounding adds up over the sequence.
"""
# pyright: reportArgumentType=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gatedvision_kernels._operator import launcher
from gatedvision_kernels._rows import ceil_div
from gatedvision_kernels._triton import jit, tl
from gatedvision_kernels.bidirectional_gla._levels import (
    decays,
    exp2,
    is_shallow,
    log_since_entry,
    log_until_exit,
    meets,
)
from gatedvision_kernels.bidirectional_gla.states import CHUNK

# On an H200, 128 x 196 tokens of 6 heads, K = 32 and V = 64 in bfloat16 took 192 us with two warps and columns of 32,
# 211 us with columns of 64, and 315 us with four warps.
LAUNCH = {"num_warps": 2}
BLOCK_V = 32


@jit
def _differentiate_one_way(
    q,
    k,
    log_decay,
    shallow,
    dweights,  # [C, C] queries by keys
    dweights_t,  # [C, C] keys by queries
    weights_t,  # [C, C] keys by queries, to which one triangle and the diagonal are added
    v_ptr,  # [C, BLOCK_V], first columns of the chunk's values
    do_ptr,  # [C, BLOCK_V], likewise
    inside,
    state_ptr,  # [K, BLOCK_V], first columns of the state that enters the chunk
    leaving_ptr,  # likewise of the state that leaves it
    leaving_rows,  # K, or 0 if there is no chunk to leave to
    adjoint_ptr,  # likewise of the adjoint state that enters from there
    r,
    HAS_STATES: tl.constexpr,
    REVERSE: tl.constexpr,
    V: tl.constexpr,
    BLOCK_V: tl.constexpr,
    LEVELS: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    GATE_PRECISION: tl.constexpr,
    SUM_PRECISION: tl.constexpr,
    FLUSH: tl.constexpr,
):
    """Return dq, dk and the log-decay's gradient of one direction, its decayed keys and weights_t."""
    query, key = r[:, None], r[None, :]
    ahead = (query < key) if REVERSE else (query > key)
    ahead_t = (query > key) if REVERSE else (query < key)
    entry = log_since_entry(log_decay, r, REVERSE, GATE_PRECISION)
    since_entry = exp2(entry, FLUSH)
    until_exit = exp2(log_until_exit(log_decay, r, REVERSE, GATE_PRECISION), FLUSH)
    # Both directions give the diagonal its full weight; here it does not count for dq and dk.
    if shallow:
        before_entry = exp2(-entry, FLUSH)
        q_entry = (q * since_entry).to(OPERAND)
        k_entry = (k * before_entry).to(OPERAND)
        product = tl.dot(k_entry, tl.trans(q_entry), input_precision=PRECISION)
        weights_t += tl.where(ahead_t | (query == key), product, 0.0)
        dq = tl.dot(tl.where(ahead, dweights, 0.0), k_entry, input_precision=PRECISION) * since_entry
        dk = tl.dot(tl.where(ahead_t, dweights_t, 0.0), q_entry, input_precision=PRECISION) * before_entry
    else:
        dq = tl.zeros(q.shape, tl.float32)
        dk = tl.zeros(q.shape, tl.float32)
        weights_t += tl.where(query == key, tl.dot(k, tl.trans(q), input_precision=PRECISION), 0.0)
        for level in range(LEVELS):
            inward, outward = decays(log_decay, r, level, REVERSE, GATE_PRECISION, FLUSH)
            q_level = (q * inward).to(OPERAND)
            k_level = (k * outward).to(OPERAND)
            pairs = meets(query, key, level, REVERSE)
            pairs_t = meets(key, query, level, REVERSE)
            product = tl.dot(k_level, tl.trans(q_level), input_precision=PRECISION)
            weights_t += tl.where(pairs_t, product, 0.0)
            dq += tl.dot(tl.where(pairs, dweights, 0.0), k_level, input_precision=PRECISION) * inward
            dk += tl.dot(tl.where(pairs_t, dweights_t, 0.0), q_level, input_precision=PRECISION) * outward

    beyond = tl.zeros([q.shape[1]], tl.float32)
    if HAS_STATES:
        dq_level = tl.zeros(q.shape, tl.float32)
        dk_level = tl.zeros(q.shape, tl.float32)
        for column in range(0, V, BLOCK_V):
            v = tl.load(v_ptr + column, mask=inside, other=0.0).to(OPERAND)
            do = tl.load(do_ptr + column, mask=inside, other=0.0).to(OPERAND)
            state = tl.load(state_ptr + column).to(OPERAND)
            adjoint = tl.load(adjoint_ptr + column)
            leaving = tl.load(leaving_ptr + column, mask=tl.arange(0, q.shape[1])[:, None] < leaving_rows, other=0.0)
            beyond += tl.sum(leaving.to(tl.float32) * adjoint.to(tl.float32), 1)
            dq_level = tl.dot(do, tl.trans(state), dq_level, input_precision=PRECISION)
            dk_level = tl.dot(v, tl.trans(adjoint.to(OPERAND)), dk_level, input_precision=PRECISION)
        dq += dq_level * since_entry
        dk += dk_level * until_exit
    # Nothing is rounded before this difference, in which most of both terms cancels.
    passed = (r[:, None] >= r[None, :]) if REVERSE else (r[:, None] <= r[None, :])
    dlog_decay = tl.dot(passed.to(tl.float32), q * dq - k * dk, input_precision=SUM_PRECISION) + beyond[None, :]
    return dq, dk, dlog_decay, (k * until_exit).to(OPERAND), weights_t


# Lengths vary; a form for each kind of number would be compiled again and again.
@jit(do_not_specialize=("length", "chunks"))
def _backward_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    log_decay_forward_ptr,
    log_decay_backward_ptr,
    do_ptr,
    states_ptr,  # [2, B * N, T, K, V]
    adjoints_ptr,  # [2, B * N, T, K, V]
    dq_ptr,  # [B, L, N, K], contiguous, as are the gradients below
    dk_ptr,
    dv_ptr,  # [B, L, N, V]
    dforward_ptr,
    dbackward_ptr,
    scale,
    length,
    heads,
    stride_q,  # between tokens, as the strides below
    stride_k,
    stride_v,
    stride_f,
    stride_b,
    stride_o,
    chunks,
    HAS_STATES: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    BLOCK_V: tl.constexpr,
    C: tl.constexpr,
    LEVELS: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    GATE: tl.constexpr,
    GATE_PRECISION: tl.constexpr,
    SUM_PRECISION: tl.constexpr,
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
    d_v = tl.arange(0, BLOCK_V)
    start = batch * length + chunk * C
    inside = (chunk * C + r < length)[:, None]
    at_k = d_k[None, :]
    at_v = d_v[None, :]
    q_ptr += start * stride_q + head * K
    k_ptr += start * stride_k + head * K
    log_decay_forward_ptr += start * stride_f + head * K
    log_decay_backward_ptr += start * stride_b + head * K
    q = tl.load(q_ptr + (r[:, None] * stride_q + at_k), mask=inside, other=0.0).to(OPERAND)
    k = tl.load(k_ptr + (r[:, None] * stride_k + at_k), mask=inside, other=0.0).to(OPERAND)
    log_decay_forward = tl.load(log_decay_forward_ptr + (r[:, None] * stride_f + at_k), mask=inside, other=0.0).to(GATE)
    log_decay_backward = tl.load(log_decay_backward_ptr + (r[:, None] * stride_b + at_k), mask=inside, other=0.0).to(
        GATE
    )
    v_ptr += start * stride_v + head * V + (r[:, None] * stride_v + at_v)
    do_ptr += start * stride_o + head * V + (r[:, None] * stride_o + at_v)

    # Each matrix and its transpose come from products of their own: a transposed result of a product
    # must not feed another one (miscompiled on Hopper).
    dweights = tl.zeros([C, C], tl.float32)
    dweights_t = tl.zeros([C, C], tl.float32)
    for column in range(0, V, BLOCK_V):
        v = tl.load(v_ptr + column, mask=inside, other=0.0).to(OPERAND)
        do = tl.load(do_ptr + column, mask=inside, other=0.0).to(OPERAND)
        dweights = tl.dot(do, tl.trans(v), dweights, input_precision=PRECISION)
        dweights_t = tl.dot(v, tl.trans(do), dweights_t, input_precision=PRECISION)
    # The diagonal does not touch the gates.
    same = r[:, None] == r[None, :]
    diagonal = 2.0 * tl.sum(tl.where(same, dweights, 0.0), 1)[:, None]
    dweights = dweights.to(OPERAND)
    dweights_t = dweights_t.to(OPERAND)
    weights_t = tl.zeros([C, C], tl.float32)
    shallow = is_shallow(
        log_since_entry(log_decay_forward, r, False, GATE_PRECISION),
        log_since_entry(log_decay_backward, r, True, GATE_PRECISION),
    )

    state_ptr = states_ptr + (row * chunks + chunk) * K * V + d_k[:, None] * V + at_v
    adjoint_ptr = adjoints_ptr + (row * chunks + chunk) * K * V + d_k[:, None] * V + at_v
    other = (tl.num_programs(0) // chunks).to(tl.int64) * chunks * K * V
    dq_forward, dk_forward, dforward, k_forward, weights_t = _differentiate_one_way(
        q,
        k,
        log_decay_forward,
        shallow,
        dweights,
        dweights_t,
        weights_t,
        v_ptr,
        do_ptr,
        inside,
        state_ptr,
        state_ptr + K * V,
        tl.where(chunk + 1 < chunks, K, 0),
        adjoint_ptr,
        r,
        HAS_STATES,
        False,
        V,
        BLOCK_V,
        LEVELS,
        OPERAND,
        PRECISION,
        GATE_PRECISION,
        SUM_PRECISION,
        FLUSH,
    )
    out_k = (start * heads + head) * K + (r[:, None] * heads * K + at_k)
    tl.store(dforward_ptr + out_k, (dforward * scale).to(dforward_ptr.dtype.element_ty), mask=inside)
    dq_backward, dk_backward, dbackward, k_backward, weights_t = _differentiate_one_way(
        q,
        k,
        log_decay_backward,
        shallow,
        dweights,
        dweights_t,
        weights_t,
        v_ptr,
        do_ptr,
        inside,
        state_ptr + other,
        state_ptr + other - K * V,
        tl.where(chunk > 0, K, 0),
        adjoint_ptr + other,
        r,
        HAS_STATES,
        True,
        V,
        BLOCK_V,
        LEVELS,
        OPERAND,
        PRECISION,
        GATE_PRECISION,
        SUM_PRECISION,
        FLUSH,
    )
    tl.store(dbackward_ptr + out_k, (dbackward * scale).to(dbackward_ptr.dtype.element_ty), mask=inside)
    dq = dq_forward + dq_backward + diagonal * k
    dk = dk_forward + dk_backward + diagonal * q
    tl.store(dq_ptr + out_k, (dq * scale).to(dq_ptr.dtype.element_ty), mask=inside)
    tl.store(dk_ptr + out_k, (dk * scale).to(dk_ptr.dtype.element_ty), mask=inside)

    dv_ptr += (start * heads + head) * V + (r[:, None] * heads * V + at_v)
    for column in range(0, V, BLOCK_V):
        do = tl.load(do_ptr + column, mask=inside, other=0.0).to(OPERAND)
        dv = tl.dot(weights_t.to(OPERAND), do, input_precision=PRECISION)
        if HAS_STATES:
            adjoint = tl.load(adjoint_ptr + column).to(OPERAND)
            dv = tl.dot(k_forward, adjoint, dv, input_precision=PRECISION)
            adjoint = tl.load(adjoint_ptr + other + column).to(OPERAND)
            dv = tl.dot(k_backward, adjoint, dv, input_precision=PRECISION)
        tl.store(dv_ptr + column, (dv * scale).to(dv_ptr.dtype.element_ty), mask=inside)


def _sum_precision(formats: dict[str, Any]) -> str:
    """Return the precision of the sums over float32 differences: beside bfloat16 operands, tf32 is exact enough."""
    if torch.version.hip is not None:
        return "ieee"
    return "tf32" if formats["OPERAND"] == tl.bfloat16 else "tf32x3"


def differentiate(
    doutput: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay_forward: Tensor,
    log_decay_backward: Tensor,
    states: Tensor,
    adjoints: Tensor,
    scale: float,
    *,
    formats: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Launch the backward kernel over the states of both passes.

    Args:
        doutput: ``[B, L, N, V]`` gradient of the output; each token's heads contiguous, as of the next five.
        query: ``[B, L, N, K]``.
        key: ``[B, L, N, K]``.
        value: ``[B, L, N, V]``.
        log_decay_forward: ``[B, L, N, K]``.
        log_decay_backward: ``[B, L, N, K]``.
        states: ``[2, B * N, T, K, V]`` of keys and values; not read if the sequence is one chunk.
        adjoints: ``[2, B * N, T, K, V]`` of queries and output gradients; likewise.
        scale: factor of the sum of both directions.
        formats: the kernels' constants of their matrix products.

    Returns:
        Gradients of query, key, value and both log-decays, each in its own shape and dtype.
    """
    batch, length, heads, width = query.shape
    chunks = ceil_div(length, CHUNK)
    inputs = (query, key, value, log_decay_forward, log_decay_backward)
    gradients = [x.new_empty(x.shape) for x in inputs]
    launcher(_backward_kernel)[(batch * heads * chunks,)](
        *inputs,
        doutput,
        states,
        adjoints,
        *gradients,
        scale,
        length,
        heads,
        query.stride(1),
        key.stride(1),
        value.stride(1),
        log_decay_forward.stride(1),
        log_decay_backward.stride(1),
        doutput.stride(1),
        chunks,
        HAS_STATES=chunks > 1,
        K=width,
        V=value.shape[3],
        BLOCK_V=BLOCK_V,
        C=CHUNK,
        LEVELS=CHUNK.bit_length() - 1,
        **formats,
        SUM_PRECISION=_sum_precision(formats),
        **LAUNCH,
    )
    dquery, dkey, dvalue, dforward, dbackward = gradients
    return dquery, dkey, dvalue, dforward, dbackward
