"""What each key of an attention changes: the gradient of gates that switch keys on and off, for all of them at once.

For scores P and gates G, 0 or 1, attention is ``y_i = sum_j A_ij v_j`` with ``A_ij = exp(P_ij) G_j / Z_i`` and
``Z_i = sum_k exp(P_ik) G_k``. With dy the gradient of y::

    gain_j = sum_i w_ij (v_j - y_i) . dy_i      w_ij = A_ij               for a key that is on,
                                                w_ij = s(P_ij - log Z_i)  for one that is off

with the sigmoid s. The first is the derivative by the gate. The second is how y changes, to the last term, when that
key is switched on besides the others: the derivative has the exponential in place of s, which exceeds the change by any
factor where one key that is off would outweigh all that are on. No published rule; see configs/msvit/README.md.

Two kernels: sums over keys for each query, then sums over queries for each key. No matrix of pairs is made.

Shapes: B images, L tokens, N heads, D width of a head.
"""
# pyright: reportArgumentType=false

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from gatedvision_kernels._device import on_device_of
from gatedvision_kernels._dispatch import use_triton
from gatedvision_kernels._operand import operand_of
from gatedvision_kernels._operator import custom_op, launcher
from gatedvision_kernels._rows import adjacent, ceil_div
from gatedvision_kernels._triton import jit, tl, triton

MAX_WIDTH = 128


def key_gains(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    grad: Tensor,
    gates: Tensor,
    *,
    scale: Optional[float] = None,
    backend: str = "auto",
) -> Tensor:
    """Compute what the gates of keys change.

    Nothing here has a gradient itself.

    Args:
        query: ``[B, L, N, D]``.
        key: the same, and all that follow but the gates.
        value: the same.
        output: of the attention.
        grad: gradient of the output.
        gates: ``[B, L]``, 0 or 1 (above one half), in any floating dtype; at least one of each image is 1.
        scale: of the scores, ``D ** -0.5`` by default.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        ``[B, L]``, summed over heads; float32, and float64 for float64 input.

    Raises:
        ValueError: if shapes disagree, or the backend cannot run on these tensors.
    """
    _check(query, key, value, output, grad, gates)
    query, key, value, output, grad, gates = (x.detach() for x in (query, key, value, output, grad, gates))
    width = query.shape[-1]
    if use_triton(backend, query, key, value, output, grad, gates):
        if width <= MAX_WIDTH:
            run = _key_gains if torch.compiler.is_compiling() else _forward
            return run(query, key, value, output, grad, gates, width**-0.5 if scale is None else scale)
        if backend == "triton":
            raise ValueError(f"the kernels take heads of up to {MAX_WIDTH}, got {width}; use backend='auto'")
    return key_gains_reference(query, key, value, output, grad, gates, scale)


def key_gains_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    grad: Tensor,
    gates: Tensor,
    scale: Optional[float] = None,
) -> Tensor:
    """Define :func:`key_gains` in plain torch: any device, float64 for float64 input, whatever autocast says."""
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    if torch.jit.is_scripting():
        return _compare_pairs(query, key, value, output, grad, gates, factor)
    else:
        with torch.autocast("cpu" if query.is_meta else query.device.type, enabled=False):
            return _compare_pairs(query, key, value, output, grad, gates, factor)


def _compare_pairs(
    query: Tensor, key: Tensor, value: Tensor, output: Tensor, grad: Tensor, gates: Tensor, scale: float
) -> Tensor:
    wide = torch.promote_types(query.dtype, torch.float32)
    q, k, v, y, dy = [x.detach().transpose(1, 2).to(wide) for x in (query, key, value, output, grad)]
    on = (gates > 0.5)[:, None, None, :]
    scores = scale * (q @ k.transpose(-2, -1))
    rest = scores - scores.masked_fill(~on, float("-inf")).logsumexp(-1, keepdim=True)
    weights = torch.where(on, rest.exp(), rest.sigmoid())
    return (weights * (dy @ v.transpose(-2, -1) - (dy * y).sum(-1, keepdim=True))).sum((1, 2))


def _check(query: Tensor, key: Tensor, value: Tensor, output: Tensor, grad: Tensor, gates: Tensor) -> None:
    if query.ndim != 4 or 0 in query.shape[1:]:
        raise ValueError(f"query must be [B, L, N, D] with at least one token, got {list(query.shape)}")
    for name, x in {"key": key, "value": value, "output": output, "grad": grad}.items():
        if x.shape != query.shape:
            raise ValueError(f"{name} must be {list(query.shape)} as the query is, got {list(x.shape)}")
    if gates.shape != query.shape[:2]:
        raise ValueError(f"gates must be {list(query.shape[:2])}, one of each token, got {list(gates.shape)}")


@jit
def _rows_kernel(
    query_ptr,  # [B, L, N, D], as the next three
    key_ptr,
    output_ptr,
    grad_ptr,
    gates_ptr,  # [B, L]
    log_sum_ptr,  # [B, N, L], log Z
    dot_ptr,  # [B, N, L], of output and gradient
    scale,
    length,
    heads,
    query_image,
    query_token,
    query_head,
    key_image,
    key_token,
    key_head,
    output_image,
    output_token,
    output_head,
    grad_image,
    grad_token,
    grad_head,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    OPERAND: tl.constexpr,
):
    # Code that torch.compile writes passes numbers in double precision.
    scale = tl.cast(scale, tl.float32)
    row = tl.program_id(1).to(tl.int64)
    image = row // heads
    head = row % heads
    dims = tl.arange(0, BLOCK_WIDTH)
    queries = tl.program_id(0) * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    inside = (queries < length)[:, None] & (dims < WIDTH)[None, :]
    at = image * query_image + head * query_head + queries[:, None] * query_token + dims[None, :]
    query = tl.load(query_ptr + at, mask=inside, other=0.0).to(OPERAND)
    # Scores of keys that are off, below any other.
    never = -1e30
    largest = tl.full([BLOCK_QUERIES], never, tl.float32)
    total = tl.zeros([BLOCK_QUERIES], tl.float32)
    key_ptr += image * key_image + head * key_head
    for start in range(0, length, BLOCK_KEYS):
        keys = start + tl.arange(0, BLOCK_KEYS)
        inside_key = (keys < length)[None, :] & (dims < WIDTH)[:, None]
        key = tl.load(key_ptr + keys[None, :] * key_token + dims[:, None], mask=inside_key, other=0.0).to(OPERAND)
        on = tl.load(gates_ptr + image * length + keys, mask=keys < length, other=0.0) > 0.5
        scores = tl.where(on[None, :], tl.dot(query, key, input_precision="ieee") * scale, never)
        before = largest
        largest = tl.maximum(before, tl.max(scores, axis=1))
        # What was counted before the first key that is on vanishes here.
        total = total * tl.exp(before - largest) + tl.sum(tl.exp(scores - largest[:, None]), axis=1)
    at = image * output_image + head * output_head + queries[:, None] * output_token + dims[None, :]
    output = tl.load(output_ptr + at, mask=inside, other=0.0).to(tl.float32)
    at = image * grad_image + head * grad_head + queries[:, None] * grad_token + dims[None, :]
    grad = tl.load(grad_ptr + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(log_sum_ptr + row * length + queries, largest + tl.log(total), mask=queries < length)
    tl.store(dot_ptr + row * length + queries, tl.sum(output * grad, axis=1), mask=queries < length)


@jit
def _keys_kernel(
    query_ptr,  # [B, L, N, D], as the next three
    key_ptr,
    value_ptr,
    grad_ptr,
    gates_ptr,  # [B, L]
    log_sum_ptr,  # [B, N, L]
    dot_ptr,  # [B, N, L]
    gain_ptr,  # [B, N, L]
    scale,
    length,
    heads,
    query_image,
    query_token,
    query_head,
    key_image,
    key_token,
    key_head,
    value_image,
    value_token,
    value_head,
    grad_image,
    grad_token,
    grad_head,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    OPERAND: tl.constexpr,
):
    scale = tl.cast(scale, tl.float32)
    row = tl.program_id(1).to(tl.int64)
    image = row // heads
    head = row % heads
    dims = tl.arange(0, BLOCK_WIDTH)
    keys = tl.program_id(0) * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)
    inside = (keys < length)[:, None] & (dims < WIDTH)[None, :]
    at = image * key_image + head * key_head + keys[:, None] * key_token + dims[None, :]
    key = tl.load(key_ptr + at, mask=inside, other=0.0).to(OPERAND)
    at = image * value_image + head * value_head + keys[:, None] * value_token + dims[None, :]
    value = tl.load(value_ptr + at, mask=inside, other=0.0).to(OPERAND)
    on = tl.load(gates_ptr + image * length + keys, mask=keys < length, other=0.0) > 0.5
    gain = tl.zeros([BLOCK_KEYS], tl.float32)
    query_ptr += image * query_image + head * query_head
    grad_ptr += image * grad_image + head * grad_head
    for start in range(0, length, BLOCK_QUERIES):
        queries = start + tl.arange(0, BLOCK_QUERIES)
        turned = (queries < length)[None, :] & (dims < WIDTH)[:, None]
        query = tl.load(query_ptr + queries[None, :] * query_token + dims[:, None], mask=turned, other=0.0).to(OPERAND)
        grad = tl.load(grad_ptr + queries[None, :] * grad_token + dims[:, None], mask=turned, other=0.0).to(OPERAND)
        # Beyond the last query all of these are 0, and so is what is added.
        log_sum = tl.load(log_sum_ptr + row * length + queries, mask=queries < length, other=0.0)
        dot = tl.load(dot_ptr + row * length + queries, mask=queries < length, other=0.0)
        rest = tl.dot(key, query, input_precision="ieee") * scale - log_sum[None, :]
        # A score of a key that is on is below the logarithm of their sum.
        weights = tl.where(on[:, None], tl.exp(tl.minimum(rest, 0.0)), tl.sigmoid(rest))
        gain += tl.sum(weights * (tl.dot(value, grad, input_precision="ieee") - dot[None, :]), axis=1)
    tl.store(gain_ptr + row * length + keys, gain, mask=keys < length)


def _tile(width: int, itemsize: int) -> dict[str, int]:
    block_width = max(16, triton.next_power_of_2(width))
    # Of 64 rows of 128 numbers in float32, more is loaded at once than chips with 100 KiB of shared memory hold.
    rows = 64 if block_width * itemsize <= 256 else 32
    return {"BLOCK_WIDTH": block_width, "BLOCK_QUERIES": rows, "BLOCK_KEYS": rows, "num_warps": 4, "num_stages": 2}


def _forward(
    query: Tensor, key: Tensor, value: Tensor, output: Tensor, grad: Tensor, gates: Tensor, scale: float
) -> Tensor:
    images, length, heads, width = query.shape
    gain = query.new_empty((images, heads, length), dtype=torch.float32)
    if images == 0:
        return gain.sum(1)
    log_sum, dot = torch.empty_like(gain), torch.empty_like(gain)
    query, key, value, output, grad = map(adjacent, (query, key, value, output, grad))
    gates = gates.contiguous()
    q, k, v, y, dy = (x.stride()[:3] for x in (query, key, value, output, grad))
    constants = {"WIDTH": width, "OPERAND": operand_of(query), **_tile(width, query.itemsize)}
    numbers = (scale, length, heads)
    rows = images * heads
    with on_device_of(query):
        launcher(_rows_kernel)[(ceil_div(length, constants["BLOCK_QUERIES"]), rows)](
            query, key, output, grad, gates, log_sum, dot, *numbers, *q, *k, *y, *dy, **constants
        )
        launcher(_keys_kernel)[(ceil_div(length, constants["BLOCK_KEYS"]), rows)](
            query, key, value, grad, gates, log_sum, dot, gain, *numbers, *q, *k, *v, *dy, **constants
        )
    return gain.sum(1)


_key_gains = custom_op(
    "key_gains",
    _forward,
    schema="(Tensor query, Tensor key, Tensor value, Tensor output, Tensor grad, Tensor gates, float scale) -> Tensor",
)


@_key_gains.register_fake
def _(query, key, value, output, grad, gates, scale):
    return query.new_empty(query.shape[:2], dtype=torch.float32)


_key_gains.register_autograd(lambda ctx, grad: (None,) * 7)


# Two operations for a multiply-add, of three matrices of pairs; one of them is computed twice, which does not count.
@register_flop_formula(torch.ops.gatedvision.key_gains)
def _count_flops(query: torch.Size, *_, **__) -> int:
    images, length, heads, width = query
    return 4 * images * heads * length * length * width
