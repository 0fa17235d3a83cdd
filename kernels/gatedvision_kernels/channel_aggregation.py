"""Channel aggregation: GELU, after which what differs from a channel common to all is weighed anew.

For each row x of E channels, with vectors d and s and a number b (MogaNet, arXiv:2211.03295, section 4.3)::

    h = gelu(x)
    c = gelu(d . h + b)
    y = h + s (h - c)

    out = y W^T + a

The middle of MogaNet's channel mixer, alone or with the linear layer that closes the mixer.
Shapes: E channels, R rows (all leading axes together), P programs that share the rows, O outputs of the linear layer.
"""
# pyright: reportArgumentType=false

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from gatedvision_kernels._device import on_device_of
from gatedvision_kernels._dispatch import use_triton
from gatedvision_kernels._gelu import normal_distribution
from gatedvision_kernels._operator import custom_op, launcher
from gatedvision_kernels._recomputed_linear import check_linear, linear, recomputed_linear
from gatedvision_kernels._rows import as_rows, ceil_div, num_programs, tile_of
from gatedvision_kernels._triton import jit, tl
from gatedvision_kernels._tuning import setting
from gatedvision_kernels._two_ways import two_ways

# Of a tile, 16 bytes of the sixteen-bit types. With more, the seven tiles that are live at once in the backward kernel
# would leave the registers.
THREAD_ELEMENTS = 8


def channel_aggregation(
    x: Tensor, common_weight: Tensor, common_bias: Tensor, scale: Tensor, *, backend: str = "auto"
) -> Tensor:
    """Apply GELU, and weigh anew what differs from the GELU of one linear combination of the channels.

    Args:
        x: ``[..., E]``.
        common_weight: ``[E]``, of the linear combination, in any floating dtype.
        common_bias: ``[1]``, of the linear combination, in any floating dtype.
        scale: ``[E]``, factor of the difference, in any floating dtype.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        ``[..., E]`` in the dtype of ``x``, computed in float32 or wider.

    Raises:
        ValueError: if shapes or dtypes do not fit, or the backend cannot run on these tensors.
    """
    _check(x, common_weight, common_bias, scale)
    if use_triton(backend, x, common_weight, common_bias, scale):
        return _run(x, common_weight, common_bias, scale)
    return channel_aggregation_reference(x, common_weight, common_bias, scale)


def channel_aggregation_linear(
    x: Tensor,
    common_weight: Tensor,
    common_bias: Tensor,
    scale: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    *,
    backend: str = "auto",
) -> Tensor:
    """Apply a linear layer to the aggregation; the kernels compute the aggregation again rather than keep it.

    Args:
        x: ``[..., E]``.
        common_weight: ``[E]``, of the linear combination, in any floating dtype.
        common_bias: ``[1]``, of the linear combination, in any floating dtype.
        scale: ``[E]``, factor of the difference, in any floating dtype.
        weight: ``[O, E]``, in any floating dtype.
        bias: ``[O]``, in any floating dtype, or nothing.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        ``[..., O]`` in the dtype of ``x``, to which the aggregation is rounded and weight and bias are cast.

    Raises:
        ValueError: if shapes or dtypes do not fit, or the backend cannot run on these tensors.
    """
    _check(x, common_weight, common_bias, scale)
    check_linear(weight, bias, x.shape[-1])
    parameters = (weight,) if bias is None else (weight, bias)
    if use_triton(backend, x, common_weight, common_bias, scale, *parameters):
        return _run_linear(weight, bias, x, common_weight, common_bias, scale)
    return channel_aggregation_linear_reference(x, common_weight, common_bias, scale, weight, bias)


def channel_aggregation_reference(x: Tensor, common_weight: Tensor, common_bias: Tensor, scale: Tensor) -> Tensor:
    """Define :func:`channel_aggregation` in plain torch: any device, float64 for float64 input."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    h = F.gelu(x.to(dtype))
    common = F.gelu(linear(h, common_weight.unsqueeze(0), common_bias))
    # h + scale (h - common), in one pass.
    return torch.lerp(h, common, -scale.to(dtype)).to(x.dtype)


def channel_aggregation_linear_reference(
    x: Tensor,
    common_weight: Tensor,
    common_bias: Tensor,
    scale: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
) -> Tensor:
    """Define :func:`channel_aggregation_linear` in plain torch: any device, float64 for float64 input."""
    return linear(channel_aggregation_reference(x, common_weight, common_bias, scale), weight, bias)


def _check(x: Tensor, common_weight: Tensor, common_bias: Tensor, scale: Tensor) -> None:
    if x.ndim == 0 or x.shape[-1] == 0 or common_weight.shape != x.shape[-1:] or scale.shape != x.shape[-1:]:
        raise ValueError(
            f"common_weight and scale must have one element per channel of x [..., E], E > 0; "
            f"got {tuple(common_weight.shape)} and {tuple(scale.shape)} for x {tuple(x.shape)}"
        )
    if common_bias.shape != (1,):
        raise ValueError(f"common_bias must have shape (1,), got {tuple(common_bias.shape)}")
    tensors = (x, common_weight, common_bias, scale)
    if not all(t.is_floating_point() for t in tensors):
        raise ValueError(f"all tensors must be floating point, got {[str(t.dtype) for t in tensors]}")


@jit
def _forward_kernel(
    x_ptr,  # [R, E]
    common_weight_ptr,  # [E]
    common_bias_ptr,  # [1]
    scale_ptr,  # [E]
    y_ptr,  # [R, E]
    num_rows,
    x_stride,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    columns = tl.arange(0, BLOCK_WIDTH)[None, :]
    mask = (rows < num_rows) & (columns < WIDTH)
    weight = tl.load(common_weight_ptr + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    bias = tl.load(common_bias_ptr).to(tl.float32)
    scale = tl.load(scale_ptr + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)

    x = tl.load(x_ptr + rows * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
    x_share, _ = normal_distribution(x)
    h = x * x_share
    common = tl.sum(h * weight, axis=1)[:, None] + bias
    common_share, _ = normal_distribution(common)
    y = h + scale * (h - common * common_share)
    tl.store(y_ptr + rows * WIDTH + columns, y.to(y_ptr.dtype.element_ty), mask=mask)


@jit
def _backward_kernel(
    grad_y_ptr,  # [R, E]
    x_ptr,  # [R, E]
    common_weight_ptr,  # [E]
    common_bias_ptr,  # [1]
    scale_ptr,  # [E]
    grad_x_ptr,  # [R, E]
    grad_vectors_ptr,  # [2, P, E], of the common weight before the scale
    grad_bias_ptr,  # [P]
    y_ptr,  # [R, E], the output once more
    num_rows,
    grad_y_stride,
    x_stride,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    columns = tl.arange(0, BLOCK_WIDTH)[None, :]
    weight = tl.load(common_weight_ptr + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    bias = tl.load(common_bias_ptr).to(tl.float32)
    scale = tl.load(scale_ptr + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    # Summed over rows only once, at the end: inside the loop that would cost a reduction per block.
    grad_weight = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), tl.float32)
    grad_scale = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), tl.float32)
    grad_bias = tl.zeros((BLOCK_ROWS, 1), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(num_rows, BLOCK_ROWS), tl.num_programs(0)):
        rows = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS).to(tl.int64)[:, None]
        mask = (rows < num_rows) & (columns < WIDTH)
        x = tl.load(x_ptr + rows * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
        grad_y = tl.load(grad_y_ptr + rows * grad_y_stride + columns, mask=mask, other=0.0).to(tl.float32)

        x_share, x_density = normal_distribution(x)
        h = x * x_share
        common = tl.sum(h * weight, axis=1)[:, None] + bias
        common_share, common_density = normal_distribution(common)
        difference = h - common * common_share
        y = h + scale * difference
        tl.store(y_ptr + rows * WIDTH + columns, y.to(y_ptr.dtype.element_ty), mask=mask)

        grad_scale += grad_y * difference
        grad_common = -tl.sum(grad_y * scale, axis=1)[:, None] * (common_share + common * common_density)
        grad_bias += grad_common
        grad_weight += grad_common * h
        grad_x = (grad_y + grad_y * scale + grad_common * weight) * (x_share + x * x_density)
        tl.store(grad_x_ptr + rows * WIDTH + columns, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)

    offsets = tl.program_id(0) * WIDTH + columns
    tl.store(grad_vectors_ptr + offsets, tl.sum(grad_weight, axis=0)[None, :], mask=columns < WIDTH)
    offsets += tl.num_programs(0) * WIDTH
    tl.store(grad_vectors_ptr + offsets, tl.sum(grad_scale, axis=0)[None, :], mask=columns < WIDTH)
    tl.store(grad_bias_ptr + tl.program_id(0), tl.sum(tl.sum(grad_bias, axis=1), axis=0))


@functools.lru_cache
def _tile_of(width: int, elements: int) -> dict[str, int]:
    tile = tile_of(width, elements)
    threads = tile["BLOCK_ROWS"] * tile["BLOCK_WIDTH"] // THREAD_ELEMENTS
    return tile | {"num_warps": min(16, max(4, threads // 32))}


def _forward(x: Tensor, common_weight: Tensor, common_bias: Tensor, scale: Tensor) -> Tensor:
    y = x.new_empty(x.shape)
    x = as_rows(x)
    num_rows, width = x.shape
    tile = _tile_of(width, setting("aggregation_elements"))
    with on_device_of(x):
        launcher(_forward_kernel)[(ceil_div(num_rows, tile["BLOCK_ROWS"]),)](
            x,
            common_weight.contiguous(),
            common_bias,
            scale.contiguous(),
            y,
            num_rows,
            x.stride(0),
            WIDTH=width,
            **tile,
        )
    return y


def _backward(
    grad_y: Tensor, x: Tensor, common_weight: Tensor, common_bias: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of ``x`` and, in float32, of the parameters, and the output once more."""
    grad_x, y = x.new_empty(x.shape), x.new_empty(x.shape)
    grad_y, x = as_rows(grad_y), as_rows(x)
    num_rows, width = x.shape
    tile = _tile_of(width, setting("aggregation_elements"))
    programs = num_programs(x.device, ceil_div(num_rows, tile["BLOCK_ROWS"]))
    grad_vectors = x.new_empty((2, programs, width), dtype=torch.float32)
    grad_bias = x.new_empty((programs, 1), dtype=torch.float32)
    with on_device_of(x):
        launcher(_backward_kernel)[(programs,)](
            grad_y,
            x,
            common_weight.contiguous(),
            common_bias,
            scale.contiguous(),
            grad_x,
            grad_vectors,
            grad_bias,
            y,
            num_rows,
            grad_y.stride(0),
            x.stride(0),
            WIDTH=width,
            **tile,
        )
    return grad_x, grad_vectors[0].sum(0), grad_bias.sum(0), grad_vectors[1].sum(0), y


SCHEMA = "Tensor x, Tensor common_weight, Tensor common_bias, Tensor scale"
_channel_aggregation = custom_op("channel_aggregation", _forward, schema=f"({SCHEMA}) -> Tensor")
_channel_aggregation_backward = custom_op(
    "channel_aggregation_backward",
    _backward,
    schema=f"(Tensor grad_y, {SCHEMA}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)


@_channel_aggregation.register_fake
def _(x: Tensor, *parameters: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@_channel_aggregation_backward.register_fake
def _(grad_y: Tensor, x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    weight, bias, scale = (p.new_empty(p.shape, dtype=torch.float32) for p in parameters)
    return x.new_empty(x.shape), weight, bias, scale, x.new_empty(x.shape)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(backward: Callable[..., tuple[Tensor, ...]], ctx: Any, grad_y: Tensor) -> tuple[Tensor, ...]:
    inputs = ctx.saved_tensors
    grads = backward(grad_y, *inputs)
    return tuple(g.to(x.dtype) for g, x in zip(grads, inputs, strict=False))


_run = two_ways(_channel_aggregation, _forward, _channel_aggregation_backward, _backward, _save, _differentiate)
_run_linear = recomputed_linear(
    "channel_aggregation_linear", SCHEMA, _forward, _channel_aggregation_backward, _backward
)
