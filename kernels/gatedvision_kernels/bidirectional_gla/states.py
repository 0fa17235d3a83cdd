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

One walk serves all four. A long sequence is cut into segments: a first launch sums every segment by itself,
a second one starts each segment from the sums of those before it.

Shapes: B batch, L tokens, N heads, K query/key width, V value width, T chunks, C chunk length.
"""
# pyright: reportArgumentType=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gatedvision_kernels._operator import launcher
from gatedvision_kernels._rows import ceil_div, multiprocessors
from gatedvision_kernels._triton import jit, tl
from gatedvision_kernels.bidirectional_gla._levels import exp2, sum_logs

# Tokens of a chunk, of 16, 32 and 64, and warps: on an H200, with 8 x 4,096 tokens of 6 heads, K = 32 and V = 64 in
# bfloat16, states and forward kernel took 103 + 60, 88 + 59 and 80 + 67 us, the backward kernel 188, 225 and 346 us.
CHUNK = 32
LAUNCH = {"num_warps": 2}
MAX_SEGMENTS = 32
# Programs to cut the scans for: those states took 88 us with 4, 104 us with 8 and 117 us with 16.
PROGRAMS_PER_PROCESSOR = 4


# Lengths vary; a form for each kind of number would be compiled again and again.
@jit(do_not_specialize=("length", "chunks", "segments", "per_segment"))
def _states_kernel(
    x_ptr,
    y_ptr,
    log_decay_forward_ptr,
    log_decay_backward_ptr,
    sum_ptr,  # [2, B * N, segments, K, V] float32, state each segment adds
    decay_ptr,  # [2, B * N, segments, K] float32, decay across each segment
    states_ptr,  # [2, B * N, T, K, V], state that enters each chunk
    length,
    heads,
    stride_x,  # between tokens, as the three below
    stride_y,
    stride_f,
    stride_b,
    chunks,
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
    # Neighbours in the grid share tokens: the two directions, and the tiles of a state.
    TILES: tl.constexpr = V // BLOCK_V
    pid = tl.program_id(0)
    direction = pid % 2
    tile = pid // 2 % TILES
    segment = pid // 2 // TILES % segments
    row = (pid // 2 // TILES // segments).to(tl.int64)
    rows = tl.num_programs(0) // 2 // TILES // segments
    batch = row // heads
    head = row % heads
    rightward = (direction == 1) if ADJOINT else (direction == 0)

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
    passed = tl.where(rightward, segment, segments - 1 - segment)
    if not SUM_SEGMENTS:
        for number in range(0, passed):
            earlier = tl.where(rightward, number, segments - 1 - number)
            decay = tl.load(decay_ptr + earlier * K + d_k)
            state = state * decay[:, None] + tl.load(sum_ptr + earlier * K * V + tile_offsets)

    # A token's weight collects the decays of the tokens that the state meets after it, for the adjoint its own too.
    place = tl.where(rightward, r, C - 1 - r)
    met = (place[:, None] <= place[None, :]) if ADJOINT else (place[:, None] < place[None, :])
    first = segment * per_segment
    count = tl.minimum(per_segment, chunks - first)
    if SUM_SEGMENTS:
        # Nothing follows the last segment, so nobody asks for its sum.
        count = tl.where(passed == segments - 1, 0, count)
    for visit in range(0, count):
        chunk = first + tl.where(rightward, visit, count - 1 - visit)
        if not SUM_SEGMENTS:
            tl.store(states_ptr + (scan * chunks + chunk) * K * V + tile_offsets, state.to(states_ptr.dtype.element_ty))
        start = (chunk * C).to(tl.int64)
        inside = (r < length - chunk * C)[:, None]
        x = tl.load(x_ptr + start * stride_x + (r[:, None] * stride_x + d_k[None, :]), mask=inside, other=0.0)
        y = tl.load(y_ptr + start * stride_y + (r[:, None] * stride_y + d_v[None, :]), mask=inside, other=0.0)
        at_gate = gate_ptr + start * stride_gate + (r[:, None] * stride_gate + d_k[None, :])
        log_decay = tl.load(at_gate, mask=inside, other=0.0)
        weight = exp2(sum_logs(met, log_decay.to(GATE), GATE_PRECISION), FLUSH)
        across = 1.4426950408889634 * tl.sum(log_decay.to(tl.float32), 0)
        x = (x.to(tl.float32) * weight).to(OPERAND)
        state = state * exp2(across, FLUSH)[:, None]
        state = tl.dot(tl.trans(x), y.to(OPERAND), state, input_precision=PRECISION)
        total += across

    if SUM_SEGMENTS:
        tl.store(sum_ptr + segment * K * V + tile_offsets, state)
        if tile == 0:
            tl.store(decay_ptr + segment * K + d_k, exp2(total, FLUSH))


def new_states(key: Tensor, value: Tensor, formats: dict[str, Any]) -> Tensor:
    """Return room for the states of both directions, ``[2, B * N, T, K, V]``, of none if there is but one chunk."""
    batch, length, heads, width = key.shape
    chunks = ceil_div(length, CHUNK) if length > CHUNK else 0
    dtype = torch.bfloat16 if formats["OPERAND"] == tl.bfloat16 else torch.float32
    return key.new_empty((2, batch * heads, chunks, width, value.shape[3]), dtype=dtype)


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
        states: ``[2, B * N, T, K, V]`` of :func:`new_states`.
        adjoint: whether the states are those of the backward pass.
        formats: the kernels' constants of their matrix products.
    """
    batch, length, heads, width = x.shape
    value_width = y.shape[3]
    rows = batch * heads
    block_v = min(value_width, 64)
    scans = 2 * rows * (value_width // block_v)
    chunks = ceil_div(length, CHUNK)
    segments, per_segment = _cut(scans, chunks, multiprocessors(x.device))
    if segments > 1:
        sums = x.new_empty((2, rows, segments, width, value_width), dtype=torch.float32)
        decays = x.new_empty((2, rows, segments, width), dtype=torch.float32)
    else:
        sums = decays = states
    for sum_segments in (True, False) if segments > 1 else (False,):
        launcher(_states_kernel)[(scans * segments,)](
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
            chunks,
            segments,
            per_segment,
            SUM_SEGMENTS=sum_segments,
            ADJOINT=adjoint,
            K=width,
            V=value_width,
            BLOCK_V=block_v,
            C=CHUNK,
            **formats,
            **LAUNCH,
        )


def _cut(scans: int, chunks: int, processors: int) -> tuple[int, int]:
    """Cut each scan, so that all together fill the GPU: into how many segments, of how many chunks."""
    per_segment = max(2, chunks * scans // (PROGRAMS_PER_PROCESSOR * processors), ceil_div(chunks, MAX_SEGMENTS))
    per_segment = min(chunks, per_segment)
    return ceil_div(chunks, per_segment), per_segment
