"""Gradient of the queries: one program per head and segment, as in the forward pass.

It walks over its chunks with the states of keys and values, from right to left with those of the backward decays and
back with the others. With A the C x C weights of a chunk, dA_ij = do_i . v_j is pushed through the same factors of the
decays as in the forward pass.
"""
# pyright: reportArgumentType=false, reportPossiblyUnboundVariable=false

from __future__ import annotations

from gatedvision_kernels._triton import jit, tl
from gatedvision_kernels.bidirectional_gla._levels import (
    decays,
    exp2,
    log_since_entry,
    log_until_exit,
    meets,
)
from gatedvision_kernels.bidirectional_gla._segments import locate


@jit
def _differentiate_query(
    q,
    k,
    v,
    do,
    log_decay,
    state,  # [K, V] float32, which enters the chunk
    r,
    REVERSE: tl.constexpr,
    OWN: tl.constexpr,
    DEEP: tl.constexpr,
    LEVELS: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    GATE_PRECISION: tl.constexpr,
    FLUSH: tl.constexpr,
):
    """Differentiate a chunk's queries in one direction.

    Returns dq, with ``OWN`` twice the share of the tokens' own keys in it, what q dq adds to the gates' gradients, and
    what the state that leaves the chunk is made of: keys, and the decay across.
    """
    query, key = r[:, None], r[None, :]
    since_entry = log_since_entry(log_decay, r, REVERSE, GATE_PRECISION)
    # No gate is above 0, so the last sum is the least.
    across = exp2(tl.min(since_entry, 0), FLUSH)[:, None]
    decay = exp2(since_entry, FLUSH)
    q_entry = (q * decay).to(OPERAND)
    dweights = tl.dot(do, tl.trans(v), input_precision=PRECISION)
    dq = tl.dot(do, tl.trans(state.to(OPERAND)), input_precision=PRECISION)
    # With the factors that the products round to, a pair adds to one gradient what it takes from the other, exactly.
    if DEEP:
        change = q_entry.to(tl.float32) * dq
        dq *= decay
        for level in range(LEVELS):
            inward, outward = decays(log_decay, r, level, REVERSE, GATE_PRECISION, FLUSH)
            pairs = tl.where(meets(query, key, level, REVERSE), dweights, 0.0).to(OPERAND)
            product = tl.dot(pairs, (k * outward).to(OPERAND), input_precision=PRECISION)
            change += (q * inward).to(OPERAND).to(tl.float32) * product
            dq += product * inward
        k_out = (k * exp2(log_until_exit(log_decay, r, REVERSE, GATE_PRECISION), FLUSH)).to(OPERAND)
    else:
        ahead = (query < key) if REVERSE else (query > key)
        k_entry = (k * exp2(-since_entry, FLUSH)).to(OPERAND)
        dq = tl.dot(tl.where(ahead, dweights, 0.0).to(OPERAND), k_entry, dq, input_precision=PRECISION)
        change = q_entry.to(tl.float32) * dq
        dq *= decay
        k_out = k_entry
    if OWN:
        dq = tl.dot(tl.where(query == key, 2.0 * dweights, 0.0).to(OPERAND), k, dq, input_precision=PRECISION)
    return dq, change, k_out, across


@jit
def _carry(state, k_out, v, across, DEEP: tl.constexpr, PRECISION: tl.constexpr):
    """Return the state that leaves a chunk."""
    if DEEP:
        return tl.dot(tl.trans(k_out), v, state * across, input_precision=PRECISION)
    else:
        # As if all decays of the chunk came after its tokens.
        return tl.dot(tl.trans(k_out), v, state, input_precision=PRECISION) * across


@jit
def _walk(
    q_ptr,  # at the first token of the segment, as the pointers below
    k_ptr,
    v_ptr,
    log_decay_forward_ptr,
    log_decay_backward_ptr,
    do_ptr,
    change_forward_ptr,
    change_backward_ptr,
    dq_ptr,
    border_ptr,
    scale,
    stride_q,
    stride_k,
    stride_v,
    stride_f,
    stride_b,
    stride_o,
    heads,
    leftward,  # from the states that travel rightward to the others
    tokens,
    count,
    has_left,
    has_right,
    HAS_BORDERS: tl.constexpr,
    DEEP: tl.constexpr,
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
    """Walk over a segment and back, with the states of the backward decays and then with the others."""
    r = tl.arange(0, C)
    row_k = tl.arange(0, K)[None, :]
    row_v = tl.arange(0, V)[None, :]
    # Those at the border on the right; those on the left lie before them.
    right = tl.arange(0, K)[:, None] * V + row_v
    left = right - K * V
    for way in tl.static_range(2):
        state = tl.zeros([K, V], tl.float32)
        if way == 0:
            gate_ptr = log_decay_backward_ptr
            stride_g = stride_b
            change_ptr = change_backward_ptr
            if HAS_BORDERS:
                state = tl.load(border_ptr + leftward + right, mask=has_right, other=0.0).to(tl.float32)
        else:
            gate_ptr = log_decay_forward_ptr
            stride_g = stride_f
            change_ptr = change_forward_ptr
            if HAS_BORDERS:
                state = tl.load(border_ptr + left, mask=has_left, other=0.0).to(tl.float32)
            # Threads add to what others wrote.
            tl.debug_barrier()
        for visit in range(0, count):
            at = ((count - 1 - visit) if way == 0 else visit) * C + r[:, None]
            inside = at < tokens
            q = tl.load(q_ptr + (at * stride_q + row_k), mask=inside, other=0.0).to(OPERAND)
            k = tl.load(k_ptr + (at * stride_k + row_k), mask=inside, other=0.0).to(OPERAND)
            v = tl.load(v_ptr + (at * stride_v + row_v), mask=inside, other=0.0).to(OPERAND)
            do = tl.load(do_ptr + (at * stride_o + row_v), mask=inside, other=0.0).to(OPERAND)
            log_decay = tl.load(gate_ptr + (at * stride_g + row_k), mask=inside, other=0.0).to(GATE)
            dq, change, k_out, across = _differentiate_query(
                q,
                k,
                v,
                do,
                log_decay,
                state,
                r,
                way == 0,
                way == 1,
                DEEP,
                LEVELS,
                OPERAND,
                PRECISION,
                GATE_PRECISION,
                FLUSH,
            )
            at_k = at * (heads * K) + row_k
            tl.store(change_ptr + at_k, change, mask=inside)
            dq *= scale
            if way == 1:
                dq += tl.load(dq_ptr + at_k, mask=inside, other=0.0).to(tl.float32)
            tl.store(dq_ptr + at_k, dq.to(dq_ptr.dtype.element_ty), mask=inside)
            # The last product, for compilers choose by it how warps share all of them: here, by columns.
            state = _carry(state, k_out, v, across, DEEP, PRECISION)


# Lengths vary; a form for each kind of number would be compiled again and again.
@jit(do_not_specialize=("length", "chunks", "segments", "per_segment"))
def _query_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    log_decay_forward_ptr,
    log_decay_backward_ptr,
    do_ptr,
    border_ptr,  # [2, B * N, S - 1, K, V], states that pass borders between segments, rightward first
    deep_ptr,  # [B * N, S] int32
    change_forward_ptr,  # [B, L, N, K] float32, contiguous, as are the gradients: q dq of one direction
    change_backward_ptr,
    dq_ptr,
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
    segments,
    per_segment,
    HAS_BORDERS: tl.constexpr,
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
    place = tl.program_id(0)
    row, head, segment, start, count, tokens = locate(place, segments, per_segment, chunks, length, heads, C)
    # Scalars stay in uniform registers; tensors of addresses would fill the others.
    q_ptr += start * stride_q + head * K
    k_ptr += start * stride_k + head * K
    v_ptr += start * stride_v + head * V
    do_ptr += start * stride_o + head * V
    log_decay_forward_ptr += start * stride_f + head * K
    log_decay_backward_ptr += start * stride_b + head * K
    out = (start * heads + head) * K
    change_forward_ptr += out
    change_backward_ptr += out
    dq_ptr += out
    rows = tl.num_programs(0) // segments
    leftward = (rows * (segments - 1)).to(tl.int64) * K * V
    border_ptr += (row * (segments - 1) + segment) * K * V
    deep = tl.load(deep_ptr + place)
    for strong in tl.static_range(2):
        if deep == strong:
            _walk(
                q_ptr,
                k_ptr,
                v_ptr,
                log_decay_forward_ptr,
                log_decay_backward_ptr,
                do_ptr,
                change_forward_ptr,
                change_backward_ptr,
                dq_ptr,
                border_ptr,
                scale,
                stride_q,
                stride_k,
                stride_v,
                stride_f,
                stride_b,
                stride_o,
                heads,
                leftward,
                tokens,
                count,
                segment > 0,
                segment < segments - 1,
                HAS_BORDERS,
                strong == 1,
                K,
                V,
                C,
                LEVELS,
                OPERAND,
                PRECISION,
                GATE,
                GATE_PRECISION,
                FLUSH,
            )
