"""Bidirectional gated linear attention in plain torch: the definition of the operator.

The sequence is cut into chunks of C tokens. Inside a chunk every pair of tokens is weighted
by its decay, a product of those up to and from a token between the two, so that no exponent
is ever positive; or, where no chunk decays by much, by a quotient, which is quicker. Between
chunks two short scans carry the states. Memory grows linearly with the sequence length.

Shapes: B batch, L tokens, N heads, K query/key width, V value width, T chunks, C chunk length.
"""

import math
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor


def bidirectional_gla_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay_forward: Tensor,
    log_decay_backward: Tensor,
    scale: Optional[float] = None,
) -> Tensor:
    """Compute what :func:`gatedvision_kernels.bidirectional_gla` defines, on any device.

    Differentiable by autograd, computed in float64 if an argument is float64 and in float32
    otherwise, whatever autocast says.

    Args:
        query: ``[B, L, N, K]``.
        key: ``[B, L, N, K]``.
        value: ``[B, L, N, V]``.
        log_decay_forward: ``[B, L, N, K]``, at most 0.
        log_decay_backward: ``[B, L, N, K]``, at most 0.
        scale: factor of the query, ``K ** -0.5`` by default.

    Returns:
        ``[B, L, N, V]`` in the dtype of ``value``.
    """
    if torch.jit.is_scripting():
        return _chunked(query, key, value, log_decay_forward, log_decay_backward, scale)
    else:
        device_type = query.device.type if query.device.type != "meta" else "cpu"
        with torch.autocast(device_type, enabled=False):
            return _chunked(query, key, value, log_decay_forward, log_decay_backward, scale)


def _chunked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay_forward: Tensor,
    log_decay_backward: Tensor,
    scale: Optional[float],
    chunk: int = 32,
) -> Tensor:
    length = query.shape[1]
    factor = 0.5 * (1.0 / math.sqrt(query.shape[3]) if scale is None else scale)
    dtype = torch.float32
    for x in [query, key, value, log_decay_forward, log_decay_backward]:
        if x.dtype == torch.float64:
            dtype = torch.float64

    q = _to_chunks(query, dtype, chunk) * factor
    k = _to_chunks(key, dtype, chunk)
    v = _to_chunks(value, dtype, chunk)
    forward = _to_chunks(log_decay_forward, dtype, chunk)
    backward = _to_chunks(log_decay_backward, dtype, chunk)
    # Sums from the chunk's first token up to and with each token, and from each token on to its last.
    prefix = forward.cumsum(-2)
    suffix = backward.flip(-2).cumsum(-2).flip(-2)

    left = prefix[..., -1:, :]
    right = suffix[..., :1, :]
    if q.shape[2] > 1 and _decay_little(left, right):
        weights = _weights_by_quotients(q, k, prefix, suffix)
    else:
        weights = _weights_by_halves(q, k, prefix, suffix)
    output = weights @ v
    if q.shape[2] > 1:
        # Both directions in one product, one behind the other along K.
        keys = torch.cat([k * (left - prefix).exp(), k * (right - suffix).exp()], -1)
        states = _states(keys.transpose(-1, -2) @ v, left.exp().transpose(-1, -2), right.exp().transpose(-1, -2))
        output = output + torch.cat([q * prefix.exp(), q * suffix.exp()], -1) @ states
    return output.flatten(2, 3)[:, :, :length].transpose(1, 2).to(value.dtype)


def _to_chunks(x: Tensor, dtype: torch.dtype, chunk: int) -> Tensor:
    """Turn ``[B, L, N, D]`` into ``[B, N, T, C, D]``, padded with tokens of zeros."""
    batch, length, heads, width = x.shape
    chunks = (length + chunk - 1) // chunk
    x = F.pad(x.to(dtype).transpose(1, 2), [0, 0, 0, chunks * chunk - length])
    return x.reshape(batch, heads, chunks, chunk, width)


def _decay_little(left: Tensor, right: Tensor) -> bool:
    """Tell whether no chunk decays by more than quotients can bear; ``[B, N, T, 1, K]``, the sums over chunks.

    Only on a CPU, where looking at values costs nothing, and not where they are not known yet.
    """
    if not left.is_cpu:
        return False
    if not torch.jit.is_scripting():
        if type(left) is not Tensor or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        if torch._C._functorch.is_batchedtensor(left):
            return False
    # Factors of quotients then stay within exp(16): none is lost, and float32 knows them to 1e-6.
    return left.numel() > 0 and float(torch.minimum(left.detach(), right.detach()).min()) > -32.0


def _weights_by_quotients(q: Tensor, k: Tensor, prefix: Tensor, suffix: Tensor) -> Tensor:
    """Compute :func:`_weights_by_halves` for any C: the decay up to one token divided by that up to the other."""
    # Around the middle factors are smallest; it cancels out, and so has no gradient.
    first, last = prefix[..., -1:, :].detach() / 2, suffix[..., :1, :].detach() / 2
    earlier = (q * (prefix - first).exp()) @ (k * (first - prefix).exp()).transpose(-1, -2)
    later = (q * (suffix - last).exp()) @ (k * (last - suffix).exp()).transpose(-1, -2)
    return earlier.tril_() + later.triu_()


def _weights_by_halves(q: Tensor, k: Tensor, prefix: Tensor, suffix: Tensor) -> Tensor:
    """Weight of token j in the output of token i of the same chunk, ``[B, N, T, C, C]``; C is a power of two.

    Neighbours are joined two by two, and then pairs, fours and so on: what one half takes from the other decays up to
    the border between them, and from there on.
    """
    chunk = q.shape[3]
    # A token takes from itself in both directions, undecayed.
    weights = 2 * (q * k).sum(-1)[..., None, None]
    size = 1
    while size < chunk:
        halves = [chunk // (2 * size), 2, size]
        q1, q2 = q.unflatten(3, halves).unbind(4)
        k1, k2 = k.unflatten(3, halves).unbind(4)
        prefix1, prefix2 = prefix.unflatten(3, halves).unbind(4)
        suffix1, suffix2 = suffix.unflatten(3, halves).unbind(4)
        last, first = prefix1[..., -1:, :], suffix2[..., :1, :]
        earlier = (q2 * (prefix2 - last).exp()) @ (k1 * (last - prefix1).exp()).transpose(-1, -2)
        later = (q1 * (suffix1 - first).exp()) @ (k2 * (first - suffix2).exp()).transpose(-1, -2)
        within1, within2 = weights.unflatten(3, halves[:2]).unbind(4)
        weights = torch.cat([torch.cat([within1, later], -1), torch.cat([earlier, within2], -1)], -2)
        size = 2 * size
    return weights.squeeze(3)


def _states(added: Tensor, decay_left: Tensor, decay_right: Tensor) -> Tensor:
    """States that enter each chunk, from the left and from the right, ``[B, N, T, 2K, V]``: two scans over the chunks.

    Args:
        added: what each chunk adds to the state on its right and to that on its left, ``[B, N, T, 2K, V]``.
        decay_left: decay of the state from the left across each chunk, ``[B, N, T, K, 1]``.
        decay_right: the same from the right.
    """
    chunks = added.shape[2]
    to_right, to_left = added.chunk(2, dim=3)
    from_left = [torch.zeros_like(to_right[:, :, 0])]
    from_right = [from_left[0]]
    for step in range(chunks - 1):
        from_left.append(torch.addcmul(to_right[:, :, step], from_left[-1], decay_left[:, :, step]))
        chunk = chunks - 1 - step
        from_right.append(torch.addcmul(to_left[:, :, chunk], from_right[-1], decay_right[:, :, chunk]))
    states: list[Tensor] = []
    for step in range(chunks):
        states += [from_left[step], from_right[chunks - 1 - step]]
    return torch.stack(states, dim=2).unflatten(2, [chunks, 2]).flatten(3, 4)
