"""Gradients of keys, values and log-decays: one program per head and segment, as in the forward pass.

It walks over its chunks with the adjoint states, of queries and output gradients, which travel against those of keys
and values: from left to right with those of the backward decays, and back with the others.

The gradient of a log-decay is what flows past it, the sum of q dq - k dk over the tokens on its far side, direction by
direction: beyond the segment it is the product of the state that leaves it with the adjoint state that comes to meet
it, so that no rounding adds up over the whole sequence. A token's own key does not count there, and joins dq and dk
last.
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
def _differentiate_key(
    q,
    k,
    v,
    do,
    log_decay,
    adjoint,  # [K, V] float32, which comes to meet the state that leaves the chunk
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
    """Differentiate a chunk's keys and values in one direction.

    Returns dk, with ``OWN`` twice the share of the tokens' own queries in it, dv, what k dk takes from the gates'
    gradients, and what the adjoint of the state that enters the chunk is made of.
    """
    key, query = r[:, None], r[None, :]
    since_entry = log_since_entry(log_decay, r, REVERSE, GATE_PRECISION)
    across = exp2(tl.min(since_entry, 0), FLUSH)[:, None]
    q_entry = (q * exp2(since_entry, FLUSH)).to(OPERAND)
    dweights = tl.dot(v, tl.trans(do), input_precision=PRECISION)
    if DEEP:
        until_exit = exp2(log_until_exit(log_decay, r, REVERSE, GATE_PRECISION), FLUSH)
        k_exit = (k * until_exit).to(OPERAND)
        dk = tl.dot(v, tl.trans(adjoint.to(OPERAND)), input_precision=PRECISION)
        change = k_exit.to(tl.float32) * dk
        dk *= until_exit
        weights = tl.where(query == key, tl.dot(k, tl.trans(q), input_precision=PRECISION), 0.0)
        for level in range(LEVELS):
            inward, outward = decays(log_decay, r, level, REVERSE, GATE_PRECISION, FLUSH)
            q_level = (q * inward).to(OPERAND)
            pairs = meets(query, key, level, REVERSE)
            k_level = (k * outward).to(OPERAND)
            product = tl.dot(tl.where(pairs, dweights, 0.0).to(OPERAND), q_level, input_precision=PRECISION)
            change += k_level.to(tl.float32) * product
            dk += product * outward
            product = tl.dot(k_level, tl.trans(q_level), input_precision=PRECISION)
            weights = tl.where(pairs, product, weights)
        dv = tl.dot(weights.to(OPERAND), do, input_precision=PRECISION)
        dv = tl.dot(k_exit, adjoint.to(OPERAND), dv, input_precision=PRECISION)
        adjoint *= across
    else:
        ahead = (query < key) if REVERSE else (query > key)
        before_entry = exp2(-since_entry, FLUSH)
        k_entry = (k * before_entry).to(OPERAND)
        adjoint *= across
        weights = tl.dot(k_entry, tl.trans(q_entry), input_precision=PRECISION)
        weights = tl.where(ahead | (query == key), weights, 0.0)
        dv = tl.dot(weights.to(OPERAND), do, input_precision=PRECISION)
        dv = tl.dot(k_entry, adjoint.to(OPERAND), dv, input_precision=PRECISION)
        dk = tl.dot(tl.where(ahead, dweights, 0.0).to(OPERAND), q_entry, input_precision=PRECISION)
        dk = tl.dot(v, tl.trans(adjoint.to(OPERAND)), dk, input_precision=PRECISION)
        change = k_entry.to(tl.float32) * dk
        dk *= before_entry
    if OWN:
        dk = tl.dot(tl.where(query == key, 2.0 * dweights, 0.0).to(OPERAND), q, dk, input_precision=PRECISION)
    return dk, dv, change, q_entry, adjoint


@jit
def _sum_tokens(tokens, x, OPERAND: tl.constexpr, PRECISION: tl.constexpr):
    """Sum ``x`` ``[C, K]`` float32 over the tokens that each row of ``tokens`` ``[C, C]`` marks.

    What is summed cancels for the most part, so it is split until nothing of it is lost to speak of.
    """
    if OPERAND == tl.bfloat16:
        marks = tokens.to(tl.bfloat16)
        high = x.to(tl.bfloat16)
        low = (x - high.to(tl.float32)).to(tl.bfloat16)
        return tl.dot(marks, low, tl.dot(marks, high))
    elif PRECISION == "tf32":
        return tl.dot(tokens.to(tl.float32), x, input_precision="tf32x3")
    else:
        return tl.dot(tokens.to(tl.float32), x, input_precision=PRECISION)


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
    dk_ptr,
    dv_ptr,
    dforward_ptr,
    dbackward_ptr,
    border_ptr,
    adjoint_ptr,
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
    """Walk over a segment and back, with the adjoint states of the backward decays and then with the others."""
    r = tl.arange(0, C)
    row_k = tl.arange(0, K)[None, :]
    row_v = tl.arange(0, V)[None, :]
    # Those at the border on the right; those on the left lie before them.
    right = tl.arange(0, K)[:, None] * V + row_v
    left = right - K * V
    for way in tl.static_range(2):
        adjoint = tl.zeros([K, V], tl.float32)
        # The sum of q dq - k dk over the tokens behind, those beyond the segment included.
        behind = tl.zeros([K], tl.float32)
        if way == 0:
            gate_ptr = log_decay_backward_ptr
            stride_g = stride_b
            change_ptr = change_backward_ptr
            dgate_ptr = dbackward_ptr
            if HAS_BORDERS:
                adjoint = tl.load(adjoint_ptr + left, mask=has_left, other=0.0).to(tl.float32)
                leaving = tl.load(border_ptr + leftward + left, mask=has_left, other=0.0).to(tl.float32)
                behind = tl.sum(adjoint * leaving, 1)
        else:
            gate_ptr = log_decay_forward_ptr
            stride_g = stride_f
            change_ptr = change_forward_ptr
            dgate_ptr = dforward_ptr
            if HAS_BORDERS:
                adjoint = tl.load(adjoint_ptr + leftward + right, mask=has_right, other=0.0).to(tl.float32)
                leaving = tl.load(border_ptr + right, mask=has_right, other=0.0).to(tl.float32)
                behind = tl.sum(adjoint * leaving, 1)
            # Threads add to what others wrote.
            tl.debug_barrier()
        for visit in range(0, count):
            at = (visit if way == 0 else (count - 1 - visit)) * C + r[:, None]
            inside = at < tokens
            q = tl.load(q_ptr + (at * stride_q + row_k), mask=inside, other=0.0).to(OPERAND)
            k = tl.load(k_ptr + (at * stride_k + row_k), mask=inside, other=0.0).to(OPERAND)
            v = tl.load(v_ptr + (at * stride_v + row_v), mask=inside, other=0.0).to(OPERAND)
            do = tl.load(do_ptr + (at * stride_o + row_v), mask=inside, other=0.0).to(OPERAND)
            log_decay = tl.load(gate_ptr + (at * stride_g + row_k), mask=inside, other=0.0).to(GATE)
            dk, dv, taken, q_entry, adjoint = _differentiate_key(
                q,
                k,
                v,
                do,
                log_decay,
                adjoint,
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
            change = tl.load(change_ptr + at_k, mask=inside, other=0.0) - taken
            # Those behind each token and itself are all but those ahead, which the sums of the decays mark, too.
            behind += tl.sum(change, 0)
            ahead = (r[:, None] <= r[None, :]) if way == 0 else (r[:, None] >= r[None, :])
            dgate = behind[None, :] + change - _sum_tokens(ahead, change, OPERAND, PRECISION)
            tl.store(dgate_ptr + at_k, (dgate * scale).to(dgate_ptr.dtype.element_ty), mask=inside)
            at_v = dv_ptr + (at * (heads * V) + row_v)
            dk *= scale
            dv *= scale
            if way == 1:
                dk += tl.load(dk_ptr + at_k, mask=inside, other=0.0).to(tl.float32)
                dv += tl.load(at_v, mask=inside, other=0.0).to(tl.float32)
            tl.store(dk_ptr + at_k, dk.to(dk_ptr.dtype.element_ty), mask=inside)
            tl.store(at_v, dv.to(dv_ptr.dtype.element_ty), mask=inside)
            # The last product, for compilers choose by it how warps share all of them: here, by columns.
            adjoint = tl.dot(tl.trans(q_entry), do, adjoint, input_precision=PRECISION)


# Lengths vary; a form for each kind of number would be compiled again and again.
@jit(do_not_specialize=("length", "chunks", "segments", "per_segment"))
def _key_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    log_decay_forward_ptr,
    log_decay_backward_ptr,
    do_ptr,
    border_ptr,  # [2, B * N, S - 1, K, V], states that pass borders between segments, rightward first
    adjoint_ptr,  # likewise; those of the backward decays go rightward
    deep_ptr,  # [B * N, S] int32
    change_forward_ptr,  # [B, L, N, K] float32, contiguous, as are the gradients: q dq of one direction
    change_backward_ptr,
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
    dk_ptr += out
    dforward_ptr += out
    dbackward_ptr += out
    dv_ptr += (start * heads + head) * V
    rows = tl.num_programs(0) // segments
    leftward = (rows * (segments - 1)).to(tl.int64) * K * V
    border_ptr += (row * (segments - 1) + segment) * K * V
    adjoint_ptr += (row * (segments - 1) + segment) * K * V
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
                dk_ptr,
                dv_ptr,
                dforward_ptr,
                dbackward_ptr,
                border_ptr,
                adjoint_ptr,
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
