"""Forward kernel of bidirectional gated linear attention: one program per head and segment.

It walks over its chunks twice, from right to left with the backward decays and back with the forward ones, and holds
one direction's state in registers.
"""
# pyright: reportArgumentType=false, reportPossiblyUnboundVariable=false

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
    is_deep,
    log_since_entry,
    log_until_exit,
    meets,
)
from gatedvision_kernels.bidirectional_gla._segments import CHUNK, cut, few_registers, launch_options, locate


@jit
def _attend_chunk(
    q,
    k,
    v,
    log_decay,
    state,  # [K, V] float32, which enters the chunk
    scale,
    r,
    REVERSE: tl.constexpr,
    DEEP: tl.constexpr,
    LEVELS: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    GATE_PRECISION: tl.constexpr,
    FLUSH: tl.constexpr,
):
    """Let a chunk's queries attend in one direction.

    Returns what they take, the diagonal included, the state that leaves the chunk, and the binary logarithm of the
    decay across it.
    """
    query, key = r[:, None], r[None, :]
    since_entry = log_since_entry(log_decay, r, REVERSE, GATE_PRECISION)
    # No gate is above 0, so the last sum is the least.
    log_across = tl.min(since_entry, 0)
    across = exp2(log_across, FLUSH)[:, None]
    q_entry = (q * (scale * exp2(since_entry, FLUSH))).to(OPERAND)
    if DEEP:
        q = (q * scale).to(OPERAND)
        weights = tl.where(query == key, tl.dot(q, tl.trans(k), input_precision=PRECISION), 0.0)
        for level in range(LEVELS):
            inward, outward = decays(log_decay, r, level, REVERSE, GATE_PRECISION, FLUSH)
            q_level = (q * inward).to(OPERAND)
            k_level = (k * outward).to(OPERAND)
            product = tl.dot(q_level, tl.trans(k_level), input_precision=PRECISION)
            weights = tl.where(meets(query, key, level, REVERSE), product, weights)
        k_exit = (k * exp2(log_until_exit(log_decay, r, REVERSE, GATE_PRECISION), FLUSH)).to(OPERAND)
        leaving = tl.dot(tl.trans(k_exit), v, state * across, input_precision=PRECISION)
    else:
        ahead = (query <= key) if REVERSE else (query >= key)
        k_entry = (k * exp2(-since_entry, FLUSH)).to(OPERAND)
        weights = tl.where(ahead, tl.dot(q_entry, tl.trans(k_entry), input_precision=PRECISION), 0.0)
        # As if all decays of the chunk came after its tokens.
        leaving = tl.dot(tl.trans(k_entry), v, state, input_precision=PRECISION) * across
    o = tl.dot(weights.to(OPERAND), v, input_precision=PRECISION)
    o = tl.dot(q_entry, state.to(OPERAND), o, input_precision=PRECISION)
    return o, leaving, log_across


@jit
def _walk(
    q_ptr,  # at the segment's first token, as the pointers below
    k_ptr,
    v_ptr,
    log_decay_forward_ptr,
    log_decay_backward_ptr,
    border_ptr,  # at the border on the right; that on the left lies before it
    o_ptr,
    scale,
    stride_q,
    stride_k,
    stride_v,
    stride_f,
    stride_b,
    stride_o,
    leftward,  # from the states that travel rightward to the others
    tokens,
    count,
    segment,
    segments,
    tile,
    HAS_BORDERS: tl.constexpr,
    DEEP: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    BLOCK_V: tl.constexpr,
    C: tl.constexpr,
    LEVELS: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    GATE: tl.constexpr,
    GATE_PRECISION: tl.constexpr,
    FLUSH: tl.constexpr,
):
    """Walk over a segment and back. Returns the logarithm of the strongest decay across a chunk, for each of K."""
    r = tl.arange(0, C)
    row_k = tl.arange(0, K)[None, :]
    row_v = tile * BLOCK_V + tl.arange(0, BLOCK_V)[None, :]
    border_ptr += tl.arange(0, K)[:, None] * V + row_v
    strongest = tl.zeros([K], tl.float32)
    for way in tl.static_range(2):
        state = tl.zeros([K, BLOCK_V], tl.float32)
        if way == 0:
            gate_ptr = log_decay_backward_ptr
            stride_g = stride_b
            if HAS_BORDERS:
                state = tl.load(border_ptr + leftward, mask=segment < segments - 1, other=0.0).to(tl.float32)
        else:
            gate_ptr = log_decay_forward_ptr
            stride_g = stride_f
            if HAS_BORDERS:
                state = tl.load(border_ptr - K * V, mask=segment > 0, other=0.0).to(tl.float32)
            # Threads add to what others wrote.
            tl.debug_barrier()
        for visit in range(0, count):
            at = ((count - 1 - visit) if way == 0 else visit) * C + r[:, None]
            inside = at < tokens
            q = tl.load(q_ptr + (at * stride_q + row_k), mask=inside, other=0.0).to(OPERAND)
            k = tl.load(k_ptr + (at * stride_k + row_k), mask=inside, other=0.0).to(OPERAND)
            v = tl.load(v_ptr + (at * stride_v + row_v), mask=inside, other=0.0).to(OPERAND)
            log_decay = tl.load(gate_ptr + (at * stride_g + row_k), mask=inside, other=0.0).to(GATE)
            o, state, log_across = _attend_chunk(
                q,
                k,
                v,
                log_decay,
                state,
                scale,
                r,
                way == 0,
                DEEP,
                LEVELS,
                OPERAND,
                PRECISION,
                GATE_PRECISION,
                FLUSH,
            )
            strongest = tl.minimum(strongest, log_across)
            at_o = o_ptr + (at * stride_o + row_v)
            if way == 1:
                o += tl.load(at_o, mask=inside, other=0.0).to(tl.float32)
            tl.store(at_o, o.to(o_ptr.dtype.element_ty), mask=inside)
    return strongest


# Lengths vary; a form for each kind of number would be compiled again and again.
@jit(do_not_specialize=("length", "chunks", "segments", "per_segment"))
def _forward_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    log_decay_forward_ptr,
    log_decay_backward_ptr,
    border_ptr,  # [2, B * N, S - 1, K, V], states that pass borders between segments, rightward first
    deep_ptr,  # [B * N, S] int32
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
    segments,
    per_segment,
    HAS_BORDERS: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    BLOCK_V: tl.constexpr,
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
    TILES: tl.constexpr = V // BLOCK_V
    tile = tl.program_id(0) % TILES
    place = tl.program_id(0) // TILES
    row, head, segment, start, count, tokens = locate(place, segments, per_segment, chunks, length, heads, C)
    # Scalars stay in uniform registers; tensors of addresses would fill the others.
    q_ptr += start * stride_q + head * K
    k_ptr += start * stride_k + head * K
    v_ptr += start * stride_v + head * V
    log_decay_forward_ptr += start * stride_f + head * K
    log_decay_backward_ptr += start * stride_b + head * K
    o_ptr += (start * heads + head) * V
    rows = tl.num_programs(0) // TILES // segments
    border_ptr += (row * (segments - 1) + segment) * K * V
    leftward = (rows * (segments - 1)).to(tl.int64) * K * V

    # All segments, and then once more those with strong gates.
    strong = 0
    for deep in tl.static_range(2):
        if strong == deep:
            strongest = _walk(
                q_ptr,
                k_ptr,
                v_ptr,
                log_decay_forward_ptr,
                log_decay_backward_ptr,
                border_ptr,
                o_ptr,
                scale,
                stride_q,
                stride_k,
                stride_v,
                stride_f,
                stride_b,
                heads * V,
                leftward,
                tokens,
                count,
                segment,
                segments,
                tile,
                HAS_BORDERS,
                deep == 1,
                K,
                V,
                BLOCK_V,
                C,
                LEVELS,
                OPERAND,
                PRECISION,
                GATE,
                GATE_PRECISION,
                FLUSH,
            )
            if deep == 0:
                strong = is_deep(strongest).to(tl.int32)
                tl.store(deep_ptr + place, strong)
                # Threads write where others wrote.
                tl.debug_barrier()


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay_forward: Tensor,
    log_decay_backward: Tensor,
    borders: Tensor,
    scale: float,
    *,
    formats: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """Launch the forward kernel.

    Args:
        query: ``[B, L, N, K]``; each token's heads contiguous, as of the next four.
        key: ``[B, L, N, K]``.
        value: ``[B, L, N, V]``.
        log_decay_forward: ``[B, L, N, K]``.
        log_decay_backward: ``[B, L, N, K]``.
        borders: ``[2, B * N, S - 1, K, V]``, states that pass the borders between segments.
        scale: factor of the sum of both directions.
        formats: the kernels' constants of their matrix products.

    Returns:
        ``[B, L, N, V]`` in the dtype of ``value``, and ``[B * N, S]``, 1 for segments with strong gates.
    """
    batch, length, heads, width = query.shape
    value_width = value.shape[3]
    rows = batch * heads
    segments, per_segment = cut(rows, length, query.device)
    output = value.new_empty(value.shape)
    deep = torch.empty((rows, segments), dtype=torch.int32, device=query.device)
    block_v = min(value_width, 64)
    launcher(_forward_kernel)[(rows * segments * (value_width // block_v),)](
        query,
        key,
        value,
        log_decay_forward,
        log_decay_backward,
        borders,
        deep,
        output,
        scale,
        length,
        heads,
        query.stride(1),
        key.stride(1),
        value.stride(1),
        log_decay_forward.stride(1),
        log_decay_backward.stride(1),
        ceil_div(length, CHUNK),
        segments,
        per_segment,
        HAS_BORDERS=segments > 1,
        K=width,
        V=value_width,
        BLOCK_V=block_v,
        C=CHUNK,
        LEVELS=CHUNK.bit_length() - 1,
        **formats,
        **few_registers(formats, launch_options(width, block_v, formats)),
    )
    return output, deep
