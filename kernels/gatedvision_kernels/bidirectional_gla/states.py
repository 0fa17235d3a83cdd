"""States at the borders between the segments of a long sequence: the only sequential part between programs.

A state is a decayed sum of outer products, S = sum_r w_r x_r y_r^T, carried along the sequence.
Four of them are needed, two a pass:

=========  ====  ====  =============  ==========================================
state      x     y     travels        weight of token r inside its segment
=========  ====  ====  =============  ==========================================
forward    k     v     left to right  decays of the tokens after r
backward   k     v     right to left  decays of the tokens before r
adjoint    q     do    right to left  forward decays up to and with r
adjoint    q     do    left to right  backward decays from r on
=========  ====  ====  =============  ==========================================

A first launch sums every segment by itself, one direction a program. All walk from left to right, so that what both
directions read comes from memory once: what travels right decays from chunk to chunk, and what travels left has yet to
pass the chunks seen before. A second launch carries the sums on.

Shapes: B batch, L tokens, N heads, K query/key width, V value width, S segments, C chunk length.
"""
# pyright: reportArgumentType=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gatedvision_kernels._operator import launcher
from gatedvision_kernels._rows import ceil_div
from gatedvision_kernels._triton import jit, tl, triton
from gatedvision_kernels.bidirectional_gla._levels import exp2, sum_logs
from gatedvision_kernels.bidirectional_gla._segments import CHUNK, cut, launch_options, locate

# Columns of a state that a program sums.
SUM_COLUMNS = 64
# Numbers that a program of the scan holds.
SCAN_ELEMENTS = 2048


# Lengths vary; a form for each kind of number would be compiled again and again.
@jit(do_not_specialize=("length", "chunks", "segments", "per_segment"))
def _sums_kernel(
    x_ptr,
    y_ptr,
    rightward_ptr,  # log-decays of the state that travels from left to right
    leftward_ptr,
    sum_ptr,  # [2, B * N, S, K, V], what each segment adds to the states: rightward, leftward
    log_ptr,  # [2, B * N, S, K] float32, binary logarithm of the decay across each segment
    length,
    heads,
    stride_x,  # between tokens, as the three below
    stride_y,
    stride_r,
    stride_l,
    chunks,
    segments,
    per_segment,
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
    number = pid // 2 // TILES
    row, head, segment, start, count, tokens = locate(number, segments, per_segment, chunks, length, heads, C)
    rows = tl.num_programs(0) // 2 // TILES // segments

    d_k = tl.arange(0, K)
    d_v = tile * BLOCK_V + tl.arange(0, BLOCK_V)
    r = tl.arange(0, C)
    x_ptr += start * stride_x + head * K
    y_ptr += start * stride_y + head * V
    gate_ptr = rightward_ptr + start * stride_r + head * K
    stride_g = stride_r
    if direction == 1:
        gate_ptr = leftward_ptr + start * stride_l + head * K
        stride_g = stride_l
    # A token's weight collects the decays of the tokens that the state meets after it, for the adjoint its own too.
    place = tl.where(direction == 0, r, C - 1 - r)
    met = (place[:, None] <= place[None, :]) if ADJOINT else (place[:, None] < place[None, :])
    state = tl.zeros([K, BLOCK_V], tl.float32)
    total = tl.zeros([K], tl.float32)
    for visit in range(0, count):
        at = visit * C + r[:, None]
        inside = at < tokens
        x = tl.load(x_ptr + (at * stride_x + d_k[None, :]), mask=inside, other=0.0).to(tl.float32)
        y = tl.load(y_ptr + (at * stride_y + d_v[None, :]), mask=inside, other=0.0).to(OPERAND)
        log_decay = tl.load(gate_ptr + (at * stride_g + d_k[None, :]), mask=inside, other=0.0)
        log_across = 1.4426950408889634 * tl.sum(log_decay.to(tl.float32), 0)
        to_pass = tl.where(direction == 0, 0.0, total)
        weight = exp2(sum_logs(met, log_decay.to(GATE), GATE_PRECISION) + to_pass[None, :], FLUSH)
        state *= exp2(tl.where(direction == 0, log_across, 0.0), FLUSH)[:, None]
        state = tl.dot(tl.trans((x * weight).to(OPERAND)), y, state, input_precision=PRECISION)
        total += log_across

    scan = (direction * rows + row) * segments + segment
    at_sum = sum_ptr + scan * K * V + (d_k[:, None] * V + d_v[None, :])
    tl.store(at_sum, state.to(sum_ptr.dtype.element_ty))
    if tile == 0:
        tl.store(log_ptr + scan * K + d_k, total)


@jit
def _follow(decay, state, later_decay, later_state):
    return decay * later_decay, state * later_decay + later_state


@jit(do_not_specialize=("segments",))
def _scan_kernel(
    sum_ptr,  # [2, B * N, S, K, V]
    log_ptr,  # [2, B * N, S, K] float32
    border_ptr,  # [2, B * N, S - 1, K, V]
    segments,
    K: tl.constexpr,
    V: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_S: tl.constexpr,
    FLUSH: tl.constexpr,
):
    TILES: tl.constexpr = V // BLOCK_V
    tile = tl.program_id(0) % TILES
    k = tl.program_id(0) // TILES % K
    scan = (tl.program_id(0) // TILES // K).to(tl.int64)
    s = tl.arange(0, BLOCK_S)
    d_v = tile * BLOCK_V + tl.arange(0, BLOCK_V)
    leftward = tl.program_id(0) >= tl.num_programs(0) // 2
    place = tl.where(leftward, segments - 1 - s, s)
    known = s < segments
    log_decay = tl.load(log_ptr + (scan * segments + place) * K + k, mask=known, other=0.0)
    at = ((scan * segments + place) * K + k)[:, None] * V + d_v[None, :]
    state = tl.load(sum_ptr + at, mask=known[:, None], other=0.0).to(tl.float32)
    decay = tl.broadcast_to(exp2(log_decay, FLUSH)[:, None], [BLOCK_S, BLOCK_V])
    _, state = tl.associative_scan((decay, state), 0, _follow)
    # Nobody asks what leaves the last one.
    border = tl.where(leftward, segments - 2 - s, s)
    at = ((scan * (segments - 1) + border) * K + k)[:, None] * V + d_v[None, :]
    tl.store(border_ptr + at, state.to(border_ptr.dtype.element_ty), mask=(s < segments - 1)[:, None])


def new_borders(key: Tensor, value: Tensor, segments: int, formats: dict[str, Any]) -> Tensor:
    """Return room for states, ``[2, B * N, S - 1, K, V]``: in bfloat16 where matrix products round them to that."""
    dtype = torch.bfloat16 if formats["OPERAND"] == tl.bfloat16 else torch.float32
    shape = (2, key.shape[0] * key.shape[2], segments - 1, key.shape[3], value.shape[3])
    return key.new_empty(shape, dtype=dtype)


def border_states(
    x: Tensor,
    y: Tensor,
    log_decay_forward: Tensor,
    log_decay_backward: Tensor,
    *,
    adjoint: bool,
    formats: dict[str, Any],
) -> Tensor:
    """Return the states that pass the borders between segments: first those that travel from left to right.

    Args:
        x: ``[B, L, N, K]`` keys, or queries for the adjoint; each token's heads contiguous, as of all others.
        y: ``[B, L, N, V]`` values, or gradients of the output for the adjoint.
        log_decay_forward: ``[B, L, N, K]``.
        log_decay_backward: ``[B, L, N, K]``.
        adjoint: whether the states are those of the backward pass, where backward decays go from left to right.
        formats: the kernels' constants of their matrix products.

    Returns:
        ``[2, B * N, S - 1, K, V]`` of :func:`new_borders`.
    """
    batch, length, heads, width = x.shape
    value_width = y.shape[3]
    rows = batch * heads
    segments, per_segment = cut(rows, length, x.device)
    borders = new_borders(x, y, segments, formats)
    if segments == 1:
        return borders
    sums = x.new_empty((2, rows, segments, width, value_width), dtype=borders.dtype)
    logs = x.new_empty((2, rows, segments, width), dtype=torch.float32)
    block_v = min(value_width, SUM_COLUMNS)
    right, left = (log_decay_backward, log_decay_forward) if adjoint else (log_decay_forward, log_decay_backward)
    options = launch_options(width, block_v, formats)
    # There is little to do for a chunk, and single warps do not wait for others.
    options["num_warps"] = max(1, width * block_v // 2048)
    launcher(_sums_kernel)[(2 * rows * segments * (value_width // block_v),)](
        x,
        y,
        right,
        left,
        sums,
        logs,
        length,
        heads,
        x.stride(1),
        y.stride(1),
        right.stride(1),
        left.stride(1),
        ceil_div(length, CHUNK),
        segments,
        per_segment,
        ADJOINT=adjoint,
        K=width,
        V=value_width,
        BLOCK_V=block_v,
        C=CHUNK,
        **formats,
        **options,
    )
    block_s = triton.next_power_of_2(segments)
    block_v = min(value_width, max(1, SCAN_ELEMENTS // block_s))
    launcher(_scan_kernel)[(2 * rows * width * (value_width // block_v),)](
        sums,
        logs,
        borders,
        segments,
        K=width,
        V=value_width,
        BLOCK_V=block_v,
        BLOCK_S=block_s,
        FLUSH=formats["FLUSH"],
        num_warps=4,
    )
    return borders
