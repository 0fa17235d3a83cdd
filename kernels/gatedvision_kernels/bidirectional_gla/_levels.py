"""Decays between the tokens of a chunk, split into factors that cannot overflow.

Query i attends to key j with the product of the decays between them. A product over the whole chunk,
divided by another one, would overflow for strong gates. Here a pair is split at the border between
the two sibling blocks, of 1, 2, 4, ... tokens, in which it first meets: level by level. In the
direction of travel, a token has in its block of the level

- ``inward``: the product of the decays up to and with its own;
- ``outward``: the product of the decays after its own.

A query in the block that is entered later weighs a key in its sibling by inward[i] * outward[j].
The logarithms of both are sums over tokens, taken as products with matrices of zeros and ones: no
exponent is positive, and none is the difference of two larger ones.
"""
# pyright: reportArgumentType=false

from __future__ import annotations

from gatedvision_kernels._triton import jit, tl


@jit
def exp(x, FLUSH: tl.constexpr):
    """Exponential of float32 values; with ``FLUSH`` (NVIDIA only) results below 1e-38 become 0.

    Without it, a chip that flushes nothing by itself spends three more instructions on each value.
    """
    x *= 1.4426950408889634
    if FLUSH:
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)
    else:
        return tl.exp2(x)


@jit
def decays(log_decay, r, level, REVERSE: tl.constexpr, PRECISION: tl.constexpr, FLUSH: tl.constexpr):
    """Return inward and outward, ``[C, K]`` float32, for blocks of ``2 ** level`` tokens.

    ``log_decay``, ``[C, K]``, is of a dtype that holds the log-decays as they are, and a product in
    ``PRECISION`` sums them without loss; ``r`` counts the tokens.
    """
    same_block = (r[:, None] ^ r[None, :]) < (1 << level)
    passed = (r[:, None] <= r[None, :]) if REVERSE else (r[:, None] >= r[None, :])
    into = tl.dot((same_block & passed).to(log_decay.dtype), log_decay, input_precision=PRECISION)
    out = tl.dot((same_block & (passed == 0)).to(log_decay.dtype), log_decay, input_precision=PRECISION)
    return exp(into, FLUSH), exp(out, FLUSH)


@jit
def meets(query, key, level, REVERSE: tl.constexpr):
    """Tell per pair of positions whether the query first meets the key at this level."""
    apart = query ^ key
    ahead = (query < key) if REVERSE else (query > key)
    return (apart >= (1 << level)) & (apart < (2 << level)) & ahead
