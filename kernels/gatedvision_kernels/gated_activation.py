"""Gated activation: what follows the convolution of a gated convolution, bias included.

For the two halves v, g of the channels of x + b (J. Yu et al., arXiv:1806.03589, section 3.1), element by element::

    y = act(v) * sigmoid(g)

with act the identity, ReLU, leaky ReLU of slope 0.2, or ELU: exp(v) - 1 below zero.

Maps come as convolutions leave them, channels first or channels last in memory, and keep that order. Channels last is
the fast one: tiles then hold whole pixels, and convolutions of 16-bit numbers want it too.

Shapes: B images, C channels of the result, P programs that share the pixels. Kernels see ``[planes, 2C, pixels]``: all
pixels of a batch are one plane where channels come last, those of an image where they do not.
"""
# pyright: reportArgumentType=false

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from gatedvision_kernels._device import on_device_of
from gatedvision_kernels._dispatch import use_triton
from gatedvision_kernels._maps import channels_last, new_map
from gatedvision_kernels._operator import custom_op, launcher
from gatedvision_kernels._rows import block_of, ceil_div, num_programs
from gatedvision_kernels._triton import jit, tl
from gatedvision_kernels._two_ways import two_ways

# Kernels know them by their number.
ACTIVATIONS = ("elu", "relu", "leaky_relu", "identity")


def gated_activation(
    x: Tensor, bias: Optional[Tensor] = None, *, activation: str = "elu", backend: str = "auto"
) -> Tensor:
    """Multiply the activation of the first half of the channels by the sigmoid of the second.

    Args:
        x: ``[B, 2C, ...]``, value before gate, in any memory order.
        bias: ``[2C]``, added to ``x``, in any floating dtype, or nothing.
        activation: of the value: ``"elu"``, ``"relu"``, ``"leaky_relu"`` (slope 0.2) or ``"identity"``.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        ``[B, C, ...]`` in the dtype and, channels first or last, the memory order of ``x``, computed in float32 or
        wider.

    Raises:
        ValueError: if shapes or dtypes do not fit, the activation is unknown, or the backend cannot run on these
            tensors.
    """
    if x.ndim < 2 or x.shape[1] == 0 or x.shape[1] % 2 != 0:
        raise ValueError(f"the channels of x [B, 2C, ...] must be even and not zero in number, got x {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"x must be floating point, got {x.dtype}")
    if bias is not None and (bias.shape != x.shape[1:2] or not bias.is_floating_point()):
        raise ValueError(
            f"bias must be floating point with one element per channel of x {tuple(x.shape)}, "
            f"got {bias.dtype} {tuple(bias.shape)}"
        )
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if use_triton(backend, x, *(() if bias is None else (bias,))):
        return _run(x, bias, activation)
    return gated_activation_reference(x, bias, activation)


def gated_activation_reference(x: Tensor, bias: Optional[Tensor] = None, activation: str = "elu") -> Tensor:
    """Define :func:`gated_activation` in plain torch: any device, float64 for float64 input."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    value, gate = x.to(dtype).chunk(2, dim=1)
    if bias is not None:
        value_bias, gate_bias = bias.to(dtype).reshape([-1] + [1] * (x.ndim - 2)).chunk(2)
        value, gate = value + value_bias, gate + gate_bias
    if activation == "elu":
        value = F.elu(value)
    elif activation == "relu":
        value = F.relu(value)
    elif activation == "leaky_relu":
        value = F.leaky_relu(value, 0.2)
    return (value * torch.sigmoid(gate)).to(x.dtype)


@jit
def _activate(value, ACTIVATION: tl.constexpr):
    """Return the activation, by its place in ``ACTIVATIONS``, and its slope."""
    if ACTIVATION == 0:
        below = tl.exp(tl.minimum(value, 0.0))
        return tl.where(value > 0, value, below - 1), tl.where(value > 0, 1.0, below)
    elif ACTIVATION == 1:
        return tl.maximum(value, 0.0), tl.where(value > 0, 1.0, 0.0)
    elif ACTIVATION == 2:
        return tl.where(value > 0, value, 0.2 * value), tl.where(value > 0, 1.0, 0.2)
    else:
        return value, tl.full(value.shape, 1.0, tl.float32)


@jit
def _forward_kernel(
    x_ptr,  # [planes, 2C, pixels]
    bias_ptr,  # [2C] or nothing
    y_ptr,  # [planes, C, pixels]
    num_pixels,
    x_plane_stride,
    x_channel_stride,
    x_pixel_stride,
    y_plane_stride,
    y_channel_stride,
    y_pixel_stride,
    ACTIVATION: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    pixels = tl.program_id(0).to(tl.int64) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)[:, None]
    channels = tl.program_id(1).to(tl.int64) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)[None, :]
    plane = tl.program_id(2).to(tl.int64)
    mask = (pixels < num_pixels) & (channels < DIM)
    x_ptr += plane * x_plane_stride + pixels * x_pixel_stride
    value = tl.load(x_ptr + channels * x_channel_stride, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(x_ptr + (channels + DIM) * x_channel_stride, mask=mask, other=0.0).to(tl.float32)
    if bias_ptr is not None:
        value += tl.load(bias_ptr + channels, mask=channels < DIM, other=0.0).to(tl.float32)
        gate += tl.load(bias_ptr + DIM + channels, mask=channels < DIM, other=0.0).to(tl.float32)
    value, _ = _activate(value, ACTIVATION)
    y_ptr += plane * y_plane_stride + pixels * y_pixel_stride + channels * y_channel_stride
    tl.store(y_ptr, (value * tl.sigmoid(gate)).to(y_ptr.dtype.element_ty), mask=mask)


@jit
def _backward_kernel(
    grad_y_ptr,  # [planes, C, pixels]
    x_ptr,  # [planes, 2C, pixels]
    bias_ptr,  # [2C] or nothing
    grad_x_ptr,  # [planes, 2C, pixels]
    sums_ptr,  # [planes, P, 2C] float32, of the gradient of x, or nothing
    num_pixels,
    grad_y_plane_stride,
    grad_y_channel_stride,
    grad_y_pixel_stride,
    x_plane_stride,
    x_channel_stride,
    x_pixel_stride,
    grad_x_plane_stride,
    grad_x_channel_stride,
    grad_x_pixel_stride,
    ACTIVATION: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    channels = tl.program_id(1).to(tl.int64) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)[None, :]
    plane = tl.program_id(2).to(tl.int64)
    x_ptr += plane * x_plane_stride + channels * x_channel_stride
    grad_y_ptr += plane * grad_y_plane_stride + channels * grad_y_channel_stride
    grad_x_ptr += plane * grad_x_plane_stride + channels * grad_x_channel_stride
    value_bias = tl.zeros((1, BLOCK_CHANNELS), tl.float32)
    gate_bias = tl.zeros((1, BLOCK_CHANNELS), tl.float32)
    if bias_ptr is not None:
        value_bias += tl.load(bias_ptr + channels, mask=channels < DIM, other=0.0).to(tl.float32)
        gate_bias += tl.load(bias_ptr + DIM + channels, mask=channels < DIM, other=0.0).to(tl.float32)
    # Summed over pixels only once, at the end: inside the loop that would cost a reduction per block.
    value_sums = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    gate_sums = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(num_pixels, BLOCK_PIXELS), tl.num_programs(0)):
        pixels = block * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS).to(tl.int64)[:, None]
        mask = (pixels < num_pixels) & (channels < DIM)
        x_at, gate_at = x_ptr + pixels * x_pixel_stride, tl.cast(DIM, tl.int64) * x_channel_stride
        value = tl.load(x_at, mask=mask, other=0.0).to(tl.float32) + value_bias
        gate = tl.load(x_at + gate_at, mask=mask, other=0.0).to(tl.float32) + gate_bias
        grad_y = tl.load(grad_y_ptr + pixels * grad_y_pixel_stride, mask=mask, other=0.0).to(tl.float32)
        value, slope = _activate(value, ACTIVATION)
        share = tl.sigmoid(gate)
        grad_value = grad_y * share * slope
        grad_gate = grad_y * value * share * (1 - share)
        grad_x_at, gate_at = grad_x_ptr + pixels * grad_x_pixel_stride, tl.cast(DIM, tl.int64) * grad_x_channel_stride
        tl.store(grad_x_at, grad_value.to(grad_x_ptr.dtype.element_ty), mask=mask)
        tl.store(grad_x_at + gate_at, grad_gate.to(grad_x_ptr.dtype.element_ty), mask=mask)
        value_sums += grad_value
        gate_sums += grad_gate
    if sums_ptr is not None:
        sums_ptr += (plane * tl.num_programs(0) + tl.program_id(0)) * (2 * DIM) + channels
        tl.store(sums_ptr, tl.sum(value_sums, axis=0)[None, :], mask=channels < DIM)
        tl.store(sums_ptr + DIM, tl.sum(gate_sums, axis=0)[None, :], mask=channels < DIM)


def _planes(x: Tensor, last: bool) -> Tensor:
    """View ``[B, C, ...]`` as ``[planes, C, pixels]``, copying only where strides force it."""
    channels = x.shape[1]
    if last:
        return x.movedim(1, -1).reshape(-1, channels).t().unsqueeze(0)
    return x.reshape(len(x), channels, math.prod(x.shape[2:]))


def _tile(x: Tensor, dim: int) -> dict[str, int]:
    if not channels_last(x):
        return {"BLOCK_PIXELS": 1024, "BLOCK_CHANNELS": 1, "num_warps": 4}
    block = block_of(dim)
    return {
        "BLOCK_PIXELS": block["BLOCK_ROWS"],
        "BLOCK_CHANNELS": block["BLOCK_WIDTH"],
        "num_warps": block["num_warps"],
    }


def _forward(x: Tensor, bias: Optional[Tensor], act: str) -> Tensor:
    dim = x.shape[1] // 2
    y = new_map(x, dim)
    last, tile = channels_last(x), _tile(x, dim)
    x, y_planes = _planes(x, last), _planes(y, last)
    planes, _, pixels = x.shape
    grid = (ceil_div(pixels, tile["BLOCK_PIXELS"]), ceil_div(dim, tile["BLOCK_CHANNELS"]), planes)
    if y.numel() == 0:
        return y
    bias = None if bias is None else bias.contiguous()
    with on_device_of(x):
        launcher(_forward_kernel)[grid](
            x,
            bias,
            y_planes,
            pixels,
            *x.stride(),
            *y_planes.stride(),
            ACTIVATION=ACTIVATIONS.index(act),
            DIM=dim,
            **tile,
        )
    return y


def _backward(grad_y: Tensor, x: Tensor, bias: Optional[Tensor], act: str) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``x`` and, in float32, of ``bias``; the latter is empty without one."""
    channels, dim = x.shape[1], x.shape[1] // 2
    grad_x = new_map(x, channels)
    if grad_x.numel() == 0:
        return grad_x, x.new_zeros(channels if bias is not None else 0, dtype=torch.float32)
    last, tile = channels_last(x), _tile(x, dim)
    x, grad_y, grad_x_planes = (_planes(t, last) for t in (x, grad_y, grad_x))
    planes, _, pixels = x.shape
    others = ceil_div(dim, tile["BLOCK_CHANNELS"]) * planes
    blocks = ceil_div(pixels, tile["BLOCK_PIXELS"])
    programs = ceil_div(num_programs(x.device, blocks * others), others)
    sums = None if bias is None else x.new_empty((planes, programs, channels), dtype=torch.float32)
    bias = None if bias is None else bias.contiguous()
    with on_device_of(x):
        launcher(_backward_kernel)[(programs, ceil_div(dim, tile["BLOCK_CHANNELS"]), planes)](
            grad_y,
            x,
            bias,
            grad_x_planes,
            sums,
            pixels,
            *grad_y.stride(),
            *x.stride(),
            *grad_x_planes.stride(),
            ACTIVATION=ACTIVATIONS.index(act),
            DIM=dim,
            **tile,
        )
    return grad_x, x.new_empty(0, dtype=torch.float32) if sums is None else sums.sum((0, 1))


SCHEMA = "Tensor x, Tensor? bias, str act"
_gated_activation = custom_op("gated_activation", _forward, schema=f"({SCHEMA}) -> Tensor")
_gated_activation_backward = custom_op(
    "gated_activation_backward", _backward, schema=f"(Tensor grad_y, {SCHEMA}) -> (Tensor, Tensor)"
)


@_gated_activation.register_fake
def _(x: Tensor, bias: Optional[Tensor], act: str) -> Tensor:
    return new_map(x, x.shape[1] // 2)


@_gated_activation_backward.register_fake
def _(grad_y: Tensor, x: Tensor, bias: Optional[Tensor], act: str) -> tuple[Tensor, Tensor]:
    return new_map(x, x.shape[1]), x.new_empty(0 if bias is None else x.shape[1], dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Tensor, Optional[Tensor], str], output: Tensor) -> None:
    x, bias, ctx.act = inputs
    ctx.save_for_backward(x, bias)


def _differentiate(backward: Callable, ctx: Any, grad_y: Tensor) -> tuple[Tensor, Optional[Tensor], None]:
    x, bias = ctx.saved_tensors
    grad_x, grad_bias = backward(grad_y, x, bias, ctx.act)
    return grad_x, None if bias is None else grad_bias.to(bias.dtype), None


_run = two_ways(_gated_activation, _forward, _gated_activation_backward, _backward, _save, _differentiate)
