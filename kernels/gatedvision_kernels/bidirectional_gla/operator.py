"""The kernels of bidirectional gated linear attention as one differentiable operator."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from gatedvision_kernels._device import on_device_of
from gatedvision_kernels._dispatch import interpreting
from gatedvision_kernels._operator import custom_op
from gatedvision_kernels._rows import as_rows
from gatedvision_kernels._triton import tl
from gatedvision_kernels._two_ways import two_ways
from gatedvision_kernels.bidirectional_gla._segments import cut
from gatedvision_kernels.bidirectional_gla.backward import differentiate
from gatedvision_kernels.bidirectional_gla.forward import attend
from gatedvision_kernels.bidirectional_gla.states import border_states, new_borders

# Tokens of all heads. A forward pass then takes about 0.04 ms on an H200.
LARGE = 2**16


@lru_cache
def _formats(matrix: tuple[torch.dtype, ...], gates: tuple[torch.dtype, ...]) -> dict[str, Any]:
    """Return the kernels' constants for inputs of these dtypes."""
    operand, precision = _lossless(matrix)
    gate, gate_precision = _lossless(gates)
    return {
        "OPERAND": operand,
        "PRECISION": precision,
        "GATE": gate,
        "GATE_PRECISION": gate_precision,
        "FLUSH": torch.version.hip is None and not interpreting(),
    }


def _lossless(dtypes: tuple[torch.dtype, ...]) -> tuple[tl.dtype, str]:
    """Return the operand dtype and precision in which a matrix product loses nothing of its inputs."""
    if all(dtype == torch.bfloat16 for dtype in dtypes) and not interpreting():
        return tl.bfloat16, "ieee"
    if torch.version.hip is not None or interpreting():
        return tl.float32, "ieee"
    # tf32 has the mantissa of float16 and the range of float32, which decayed sums may need.
    return tl.float32, "tf32x3" if torch.float32 in dtypes else "tf32"


def _formats_of(query: Tensor, key: Tensor, value: Tensor, forward: Tensor, backward: Tensor) -> dict[str, Any]:
    return _formats((query.dtype, key.dtype, value.dtype), (forward.dtype, backward.dtype))


def _packed(x: Tensor) -> Tensor:
    """Return ``[B, L, N, D]`` with each token's heads adjacent and all tokens at one distance, ``stride(1)``."""
    # What projections hand over is so already; telling costs the host less than three views.
    stride_b, stride_l, stride_n, stride_d = x.stride()
    if stride_d == 1 and stride_n == x.shape[3] and stride_b == x.shape[1] * stride_l and x.shape[1] > 1:
        return x
    return as_rows(x.flatten(2)).view(x.shape)


def _run_forward(
    query: Tensor, key: Tensor, value: Tensor, log_decay_forward: Tensor, log_decay_backward: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output, the states that pass the borders between segments, and which of these have strong gates."""
    formats = _formats_of(query, key, value, log_decay_forward, log_decay_backward)
    if value.numel() == 0:
        return _empty_results(query, key, value, formats)
    query, key, value = _packed(query), _packed(key), _packed(value)
    gates = (_packed(log_decay_forward), _packed(log_decay_backward))
    with on_device_of(query):
        borders = border_states(key, value, *gates, adjoint=False, formats=formats)
        output, deep = attend(query, key, value, *gates, borders, scale / 2, formats=formats)
    return output, borders, deep


def _empty_results(query: Tensor, key: Tensor, value: Tensor, formats: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, heads, _ = query.shape
    segments, _ = cut(batch * heads, length, query.device)
    deep = query.new_empty((batch * heads, segments), dtype=torch.int32)
    return value.new_empty(value.shape), new_borders(key, value, segments, formats), deep


def _run_backward(
    doutput: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay_forward: Tensor,
    log_decay_backward: Tensor,
    borders: Tensor,
    deep: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the five inputs."""
    inputs = (query, key, value, log_decay_forward, log_decay_backward)
    if value.numel() == 0:
        q, k, v, f, b = [x.new_zeros(x.shape) for x in inputs]
        return q, k, v, f, b
    formats = _formats_of(*inputs)
    doutput, query, key, value = _packed(doutput), _packed(query), _packed(key), _packed(value)
    gates = (_packed(log_decay_forward), _packed(log_decay_backward))
    with on_device_of(query):
        adjoints = border_states(query, doutput, *gates, adjoint=True, formats=formats)
        return differentiate(doutput, query, key, value, *gates, borders, adjoints, deep, scale / 2, formats=formats)


def _is_large(query: Tensor, *args: Any) -> bool:
    """Tell whether kernels run for so long that compiled code had better call back into Python for them.

    That costs the host a tenth of a millisecond, and is the way to launch them with few registers.
    """
    return query.shape[:3].numel() >= LARGE


_bidirectional_gla = custom_op(
    "bidirectional_gla",
    _run_forward,
    schema="(Tensor query, Tensor key, Tensor value, Tensor log_decay_forward, Tensor log_decay_backward, "
    "float scale) -> (Tensor, Tensor, Tensor)",
    whole=_is_large,
)
_bidirectional_gla_backward = custom_op(
    "bidirectional_gla_backward",
    _run_backward,
    schema="(Tensor doutput, Tensor query, Tensor key, Tensor value, Tensor log_decay_forward, "
    "Tensor log_decay_backward, Tensor borders, Tensor deep, float scale) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    whole=_is_large,
)


@_bidirectional_gla.register_fake
def _(query, key, value, log_decay_forward, log_decay_backward, scale):
    formats = _formats_of(query, key, value, log_decay_forward, log_decay_backward)
    return _empty_results(query, key, value, formats)


@_bidirectional_gla_backward.register_fake
def _(doutput, query, key, value, log_decay_forward, log_decay_backward, borders, deep, scale):
    q, k, v, f, b = [x.new_empty(x.shape) for x in (query, key, value, log_decay_forward, log_decay_backward)]
    return q, k, v, f, b


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    # Zeros for the states, which have no gradient, would be as large as they are.
    ctx.set_materialize_grads(False)


def _differentiate(backward: Callable, ctx: Any, doutput: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    return *backward(doutput, *ctx.saved_tensors, ctx.scale), None


_run = two_ways(_bidirectional_gla, _run_forward, _bidirectional_gla_backward, _run_backward, _save, _differentiate)


def bidirectional_gla_triton(
    query: Tensor, key: Tensor, value: Tensor, log_decay_forward: Tensor, log_decay_backward: Tensor, scale: float
) -> Tensor:
    """Run the kernels on checked arguments."""
    return _run(query, key, value, log_decay_forward, log_decay_backward, scale)[0]


# Both count the recurrence: per output value and direction, 2 K multiply-adds of two operations each.
@register_flop_formula(torch.ops.gatedvision.bidirectional_gla)
def _count_flops(query: torch.Size, key: torch.Size, value: torch.Size, *args: Any, **kwargs: Any) -> int:
    return 8 * query.numel() * value[3]


@register_flop_formula(torch.ops.gatedvision.bidirectional_gla_backward)
def _count_backward_flops(
    doutput: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *args: Any, **kwargs: Any
) -> int:
    return 20 * query.numel() * value[3]
