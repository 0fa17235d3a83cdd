"""Decays between the tokens of a chunk, split into factors that cannot overflow.

Query i attends to key j with the product of the decays between them. Split at the border at which the
query's direction enters the chunk, it is exp(s_i) / exp(s_j), where s sums the log-decays since the entry:
one matrix product gives the weights of the whole chunk. That is exact to rounding while the
divisor is not tiny, and then the chunk is called shallow. Strong gates would make the second factor overflow.
There, a pair is split at the border between the two sibling blocks, of 1, 2, 4, ... tokens, in which it
first meets: level by level. In the direction of travel, a token has in its block of the level

- ``inward``: the product of the decays up to and with its own;
- ``outward``: the product of the decays after its own.

A query in the block that is entered later weighs a key in its sibling by inward[i] * outward[j].
The logarithms are sums over tokens, taken as products with matrices of zeros and ones: apart from the
divisor of a shallow chunk no exponent is positive, and none is the difference of two larger ones.
"""
# pyright: reportArgumentType=false

from __future__ import annotations

from gatedvision_kernels._triton import jit, tl


@jit
def exp2(x, FLUSH: tl.constexpr):
    """Two to the power of float32 values; with ``FLUSH`` (NVIDIA only) results below 1e-38 become 0.

    Without it, a chip that flushes nothing by itself spends three more instructions on each value.
    """
    if FLUSH:
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)
    else:
        return tl.exp2(x)


@jit
def sum_logs(tokens, log_decay, PRECISION: tl.constexpr):
    """Sum log-decays ``[C, K]`` over the tokens that each row of ``tokens`` ``[C, C]`` marks; binary logarithms.

    ``log_decay`` is of a dtype that holds the log-decays as they are, and a product in ``PRECISION`` sums
    them without loss, in float32.
    """
    return 1.4426950408889634 * tl.dot(tokens.to(log_decay.dtype), log_decay, input_precision=PRECISION)


@jit
def log_since_entry(log_decay, r, REVERSE: tl.constexpr, PRECISION: tl.constexpr):
    """Return the binary logarithm of each token's decay from the entry into the chunk up to and with its own."""
    passed = (r[:, None] <= r[None, :]) if REVERSE else (r[:, None] >= r[None, :])
    return sum_logs(passed, log_decay, PRECISION)


@jit
def log_until_exit(log_decay, r, REVERSE: tl.constexpr, PRECISION: tl.constexpr):
    """Return the binary logarithm of each token's decay after its own up to the exit from the chunk."""
    to_pass = (r[:, None] > r[None, :]) if REVERSE else (r[:, None] < r[None, :])
    return sum_logs(to_pass, log_decay, PRECISION)


@jit
def is_deep(strongest):
    """Tell from the logarithms of the decays across chunks whether they are too strong to split at the borders."""
    # Factors then stay within 2 ** 64, and logarithms of float32 precise to 4e-6 of a factor.
    deepest = -64.0
    return tl.min(strongest) <= deepest


@jit
def decays(log_decay, r, level, REVERSE: tl.constexpr, PRECISION: tl.constexpr, FLUSH: tl.constexpr):
    """Return inward and outward, ``[C, K]`` float32, for blocks of ``2 ** level`` tokens."""
    same_block = (r[:, None] ^ r[None, :]) < (1 << level)
    passed = (r[:, None] <= r[None, :]) if REVERSE else (r[:, None] >= r[None, :])
    into = sum_logs(same_block & passed, log_decay, PRECISION)
    out = sum_logs(same_block & (passed == 0), log_decay, PRECISION)
    return exp2(into, FLUSH), exp2(out, FLUSH)


@jit
def meets(query, key, level, REVERSE: tl.constexpr):
    """Tell per pair of positions whether the query first meets the key at this level."""
    apart = query ^ key
    ahead = (query < key) if REVERSE else (query > key)
    return (apart >= (1 << level)) & (apart < (2 << level)) & ahead
