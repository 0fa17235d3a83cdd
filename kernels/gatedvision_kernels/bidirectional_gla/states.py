"""States that enter each chunk: the only sequential part of bidirectional gated linear attention.

A state is a decayed sum of outer products, S = sum_r w_r x_r y_r^T, carried from chunk to chunk.
Four of them are needed, all from one kernel:

=========  ====  ====  =============  ==========================================
state      x     y     travels        weight of token r inside its chunk
=========  ====  ====  =============  ==========================================
forward    k     v     left to right  decays of the tokens after r
backward   k     v     right to left  decays of the tokens before r
adjoint    q     do    right to left  forward decays up to and with r
adjoint    q     do    left to right  backward decays from r on
=========  ====  ====  =============  ==========================================

The kernel walks each chunk in the direction of travel, so that one piece of code serves all four.
A long sequence is cut into segments: a first launch sums every segment by itself, a second one
starts each segment from the sums of those before it.

Shapes: B batch, L tokens, N heads, K query/key width, V value width, T chunks, C chunk length.
"""
# pyright: reportArgumentType=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gatedvision_kernels._rows import ceil_div, multiprocessors
from gatedvision_kernels._triton import jit, tl
from gatedvision_kernels.bidirectional_gla._levels import exp

# Tokens of a chunk. Short ones keep a program to a warp or two, without barriers: on an H100, with 128 x 196
# tokens of 6 heads, K = 32 and V = 64 in bfloat16, the forward kernel took 82 us at 16 and 140 us at 32
# tokens, the backward kernel 265 us and 379 us.
CHUNK = 16
# Tokens of a step of a launch that only sums.
SUM_SPAN = 64
MAX_SEGMENTS = 32
# Programs to cut the scans for. The states of 8 x 4,096 such tokens took 177 us at 2, 127 us at 8, 146 us at 12.
PROGRAMS_PER_PROCESSOR = 8


@jit
def _states_kernel(
    x_ptr,
    y_ptr,
    log_decay_forward_ptr,
    log_decay_backward_ptr,
    sum_ptr,  # [2, B * N, segments, K, V] float32, state each segment adds
    decay_ptr,  # [2, B * N, segments, K] float32, decay across each segment
    states_ptr,  # [2, B * N, slots, K, V], state that enters each chunk
    length,
    heads,
    stride_x,  # between tokens, as the three below
    stride_y,
    stride_f,
    stride_b,
    chunks,
    slots,
    segments,
    per_segment,
    SUM_SEGMENTS: tl.constexpr,
    ADJOINT: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    BLOCK_V: tl.constexpr,
    C: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    GATE: tl.constexpr,
    GATE_PRECISION: tl.constexpr,
    FLUSH: tl.constexpr,
):
    # Neighbours in the grid share tokens: the two directions, and the tiles of V.
    pid = tl.program_id(0)
    direction = pid % 2
    tile = pid // 2 % (V // BLOCK_V)
    segment = pid // 2 // (V // BLOCK_V) % segments
    row = (pid // 2 // (V // BLOCK_V) // segments).to(tl.int64)
    rows = tl.num_programs(0) // 2 // (V // BLOCK_V) // segments
    batch = row // heads
    head = row % heads
    rightward = (direction == 1) if ADJOINT else (direction == 0)
    step = tl.where(rightward, 1, -1)
    segment = tl.where(rightward, segment, segments - 1 - segment)

    d_k = tl.arange(0, K)
    d_v = tile * BLOCK_V + tl.arange(0, BLOCK_V)
    r = tl.arange(0, C)
    x_ptr += batch * length * stride_x + head * K
    y_ptr += batch * length * stride_y + head * V
    gate_ptr = log_decay_forward_ptr + batch * length * stride_f + head * K
    stride_gate = stride_f
    if direction == 1:
        gate_ptr = log_decay_backward_ptr + batch * length * stride_b + head * K
        stride_gate = stride_b

    scan = direction * rows + row
    tile_offsets = d_k[:, None] * V + d_v[None, :]
    sum_ptr += scan * segments * K * V
    decay_ptr += scan * segments * K
    state = tl.zeros([K, BLOCK_V], tl.float32)
    total = tl.zeros([K], tl.float32)
    if not SUM_SEGMENTS:
        for earlier in range(0, segment):
            decay = tl.load(decay_ptr + earlier * K + d_k)
            state = state * decay[:, None] + tl.load(sum_ptr + earlier * K * V + tile_offsets)

    triangle = (r[:, None] <= r[None, :]).to(GATE)
    first = segment * per_segment
    stop = tl.minimum(first + per_segment, chunks)
    if SUM_SEGMENTS:
        # Nothing follows the last segment, so nobody asks for its sum.
        stop = tl.where(segment == segments - 1, first, stop)
    for visit in range(first, stop):
        chunk = tl.where(rightward, visit, chunks - 1 - visit)
        if not SUM_SEGMENTS:
            tl.store(states_ptr + (scan * slots + chunk) * K * V + tile_offsets, state.to(states_ptr.dtype.element_ty))
        # Token r of the walk; a token's weight collects the decays of the tokens the state meets
        # after it (after and with it for the adjoint), none of which lies beyond the chunk.
        start = chunk * C + tl.where(rightward, 0, C - 1)
        token = start + step * r
        inside = (token < length)[:, None]
        x = tl.load(x_ptr + token[:, None].to(tl.int64) * stride_x + d_k[None, :], mask=inside, other=0.0)
        y = tl.load(y_ptr + token[:, None].to(tl.int64) * stride_y + d_v[None, :], mask=inside, other=0.0)
        met = token if ADJOINT else token + step
        met_inside = (met < length)[:, None] if ADJOINT else ((met < length) & (r < C - 1))[:, None]
        log_decay = tl.load(
            gate_ptr + met[:, None].to(tl.int64) * stride_gate + d_k[None, :], mask=met_inside, other=0.0
        ).to(tl.float32)
        # A sum over the tokens met, as a product with a triangle of ones: no exchange between threads.
        weight = exp(tl.dot(triangle, log_decay.to(GATE), input_precision=GATE_PRECISION), FLUSH)
        across = tl.sum(log_decay, 0)
        if not ADJOINT:
            own = gate_ptr + start.to(tl.int64) * stride_gate + d_k
            across += tl.load(own, mask=(start < length) & (d_k < K), other=0.0).to(tl.float32)
        x = (x.to(tl.float32) * weight).to(OPERAND)
        state = state * exp(across, FLUSH)[:, None]
        state += tl.dot(tl.trans(x), y.to(OPERAND), input_precision=PRECISION)
        total += across

    if SUM_SEGMENTS:
        tl.store(sum_ptr + segment * K * V + tile_offsets, state)
        if tile == 0:
            tl.store(decay_ptr + segment * K + d_k, exp(total, FLUSH))


def state_slots(length: int) -> int:
    """Number of chunks for which there is room in a tensor of states: whole spans of a sum.

    None for a sequence of one chunk, which no state enters.
    """
    if length <= CHUNK:
        return 0
    return (length + SUM_SPAN - 1) // SUM_SPAN * (SUM_SPAN // CHUNK)


def new_states(key: Tensor, value: Tensor, formats: dict[str, Any]) -> Tensor:
    """Return room for the states of both directions, ``[2, B * N, slots, K, V]``."""
    batch, length, heads, width = key.shape
    dtype = torch.bfloat16 if formats["OPERAND"] == tl.bfloat16 else torch.float32
    return key.new_empty((2, batch * heads, state_slots(length), width, value.shape[3]), dtype=dtype)


def write_states(
    x: Tensor,
    y: Tensor,
    log_decay_forward: Tensor,
    log_decay_backward: Tensor,
    states: Tensor,
    *,
    adjoint: bool,
    formats: dict[str, Any],
) -> None:
    """Write the states that enter each chunk into ``states``, those of the forward decay first.

    Args:
        x: ``[B, L, N, K]`` keys, or queries for the adjoint; each token's heads contiguous, as of all others.
        y: ``[B, L, N, V]`` values, or gradients of the output for the adjoint.
        log_decay_forward: ``[B, L, N, K]``.
        log_decay_backward: ``[B, L, N, K]``.
        states: ``[2, B * N, slots, K, V]`` of :func:`new_states`.
        adjoint: whether the states are those of the backward pass.
        formats: the kernels' constants of their matrix products.
    """
    batch, length, heads, width = x.shape
    value_width = y.shape[3]
    rows = batch * heads
    block_v = min(value_width, 64)
    scans = 2 * rows * (value_width // block_v)
    segments, spans = _cut(scans, ceil_div(length, SUM_SPAN), multiprocessors(x.device))
    if segments > 1:
        sums = x.new_empty((2, rows, segments, width, value_width), dtype=torch.float32)
        decays = x.new_empty((2, rows, segments, width), dtype=torch.float32)
    else:
        sums = decays = states
    # Segments end where spans do, counted from either end: then the last one may reach beyond the tokens.
    visited = state_slots(length) * CHUNK if segments > 1 else length
    for sum_segments in (True, False) if segments > 1 else (False,):
        chunk = SUM_SPAN if sum_segments else CHUNK
        _states_kernel[(scans * segments,)](
            x,
            y,
            log_decay_forward,
            log_decay_backward,
            sums,
            decays,
            states,
            length,
            heads,
            x.stride(1),
            y.stride(1),
            log_decay_forward.stride(1),
            log_decay_backward.stride(1),
            ceil_div(visited, chunk),
            state_slots(length),
            segments,
            spans * SUM_SPAN // chunk,
            SUM_SEGMENTS=sum_segments,
            ADJOINT=adjoint,
            K=width,
            V=value_width,
            BLOCK_V=block_v,
            C=chunk,
            **formats,
            num_warps=2 if sum_segments else 1,
        )


def _cut(scans: int, spans: int, processors: int) -> tuple[int, int]:
    """Cut each scan, so that all together fill the GPU: into how many segments, of how many spans."""
    per_segment = max(2, spans * scans // (PROGRAMS_PER_PROCESSOR * processors), ceil_div(spans, MAX_SEGMENTS))
    per_segment = min(spans, per_segment)
    return ceil_div(spans, per_segment), per_segment
