"""Backward pass of bidirectional gated linear attention: two kernels, as one holds too many registers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gatedvision_kernels._operator import launcher
from gatedvision_kernels._rows import ceil_div
from gatedvision_kernels.bidirectional_gla._segments import CHUNK, cut, few_registers, launch_options
from gatedvision_kernels.bidirectional_gla.backward_key import _key_kernel
from gatedvision_kernels.bidirectional_gla.backward_query import _query_kernel


def differentiate(
    doutput: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay_forward: Tensor,
    log_decay_backward: Tensor,
    borders: Tensor,
    adjoints: Tensor,
    deep: Tensor,
    scale: float,
    *,
    formats: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Launch both backward kernels.

    Args:
        doutput: ``[B, L, N, V]`` gradient of the output; each token's heads contiguous, as of the next five.
        query: ``[B, L, N, K]``.
        key: ``[B, L, N, K]``.
        value: ``[B, L, N, V]``.
        log_decay_forward: ``[B, L, N, K]``.
        log_decay_backward: ``[B, L, N, K]``.
        borders: ``[2, B * N, S - 1, K, V]`` states of keys and values at the borders between segments.
        adjoints: the same of queries and output gradients.
        deep: ``[B * N, S]``, of the forward pass.
        scale: factor of the sum of both directions.
        formats: the kernels' constants of their matrix products.

    Returns:
        Gradients of query, key, value and both log-decays, each in its own shape and dtype.
    """
    batch, length, heads, width = query.shape
    value_width = value.shape[3]
    rows = batch * heads
    segments, per_segment = cut(rows, length, query.device)
    inputs = (query, key, value, log_decay_forward, log_decay_backward)
    gradients = [x.new_empty(x.shape) for x in inputs]
    changes = [torch.empty(x.shape, dtype=torch.float32, device=x.device) for x in inputs[3:]]
    dquery, dkey, dvalue, dforward, dbackward = gradients
    strides = [x.stride(1) for x in (*inputs, doutput)]
    numbers = (scale, length, heads, *strides, ceil_div(length, CHUNK), segments, per_segment)
    constants = {"HAS_BORDERS": segments > 1, "K": width, "V": value_width, "C": CHUNK}
    constants |= formats | {"LEVELS": CHUNK.bit_length() - 1}
    options = launch_options(width, value_width, formats)
    few = few_registers(formats, options)
    launcher(_query_kernel)[(rows * segments,)](
        *inputs, doutput, borders, deep, *changes, dquery, *numbers, **constants, **few
    )
    # This one spills then, which costs short sequences 15 % and long ones less than they gain.
    options = few if segments > 1 else options
    launcher(_key_kernel)[(rows * segments,)](
        *inputs, doutput, borders, adjoints, deep, *changes, *gradients[1:], *numbers, **constants, **options
    )
    return dquery, dkey, dvalue, dforward, dbackward
