"""Additive attention gate: what lies between a skip connection and its gated self, in one pass over the memory.

At every position, with the skip feature x of C channels and the gating signal g of C_g channels (Attention U-Net,
arXiv:1804.03999, section 2.2, with both signals on one grid)::

    q = psi . relu(W_x x + W_g g + b) + b_psi
    a = sigmoid(q)
    y = a x

The hidden features, F a position, stay in registers: x and g are read, y and a written. Convolutions of one pixel in
torch write the hidden features several times over, and those of few channels run far from the speed of the memory.

Maps come as convolutions leave them, channels first or channels last in memory, x and g in either order; y has that
of x.

Shapes: B images, P positions of each, C, C_g and F channels.
"""
# pyright: reportArgumentType=false

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from gatedvision_kernels._device import on_device_of
from gatedvision_kernels._dispatch import interpreting, use_triton
from gatedvision_kernels._maps import new_map
from gatedvision_kernels._operator import custom_op, launcher
from gatedvision_kernels._recomputed_linear import linear
from gatedvision_kernels._rows import ceil_div
from gatedvision_kernels._triton import jit, tl, triton
from gatedvision_kernels._two_ways import two_ways


def additive_gate(
    x: Tensor,
    gating: Tensor,
    weight_x: Tensor,
    weight_gating: Tensor,
    bias: Tensor,
    psi: Tensor,
    psi_bias: Tensor,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Weigh every position of a map by what it and a gating signal add up to.

    Parameters may have any floating dtype; the products with ``weight_x`` and ``weight_gating`` are taken in the dtype
    of ``x``.

    Args:
        x: skip feature ``[B, C, ...]``, in any memory order.
        gating: gating signal ``[B, C_g, ...]`` on the grid and in the dtype of ``x``, in any memory order.
        weight_x: ``[F, C]``.
        weight_gating: ``[F, C_g]``.
        bias: ``[F]``.
        psi: ``[F]``, makes one score of the hidden features.
        psi_bias: ``[1]``, added to the score.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        The gated feature ``[B, C, ...]`` in, channels first or last, the memory order of ``x``, and the attention map
        ``[B, 1, ...]``; both in the dtype of ``x``, computed in float32 or wider.

    Raises:
        ValueError: if shapes or dtypes do not fit, or the backend cannot run on these tensors.
    """
    parameters = (weight_x, weight_gating, bias, psi, psi_bias)
    _check(x, gating, parameters)
    if use_triton(backend, x, gating, *parameters):
        return _run(x, gating, *parameters)
    return additive_gate_reference(x, gating, *parameters)


def _check(x: Tensor, gating: Tensor, parameters: tuple[Tensor, ...]) -> None:
    """Check shapes and dtypes.

    Raises:
        ValueError: unless everything fits ``x``.
    """
    if x.ndim < 3 or x.shape[1] == 0 or not x.is_floating_point():
        raise ValueError(f"x must be floating point [B, C, ...] with C > 0, got {x.dtype} {tuple(x.shape)}")
    if gating.ndim != x.ndim or len(gating) != len(x) or gating.shape[1] == 0 or gating.shape[2:] != x.shape[2:]:
        raise ValueError(
            f"gating must be [B, C_g, ...] on the grid of x {tuple(x.shape)}, C_g > 0, got {tuple(gating.shape)}"
        )
    if gating.dtype != x.dtype:
        raise ValueError(f"x and gating must be of one dtype, got {x.dtype} and {gating.dtype}")
    hidden = parameters[0].shape[0] if parameters[0].ndim else 0
    names = ("weight_x", "weight_gating", "bias", "psi", "psi_bias")
    shapes = ((hidden, x.shape[1]), (hidden, gating.shape[1]), (hidden,), (hidden,), (1,))
    for name, tensor, shape in zip(names, parameters, shapes, strict=True):
        if tuple(tensor.shape) != shape or hidden == 0 or not tensor.is_floating_point():
            raise ValueError(
                f"{name} must be floating point {list(shape)}, F the first of weight_x and > 0, "
                f"got {tensor.dtype} {tuple(tensor.shape)}"
            )


def additive_gate_reference(
    x: Tensor,
    gating: Tensor,
    weight_x: Tensor,
    weight_gating: Tensor,
    bias: Tensor,
    psi: Tensor,
    psi_bias: Tensor,
) -> tuple[Tensor, Tensor]:
    """Define :func:`additive_gate` in plain torch: any device, float64 for float64 input."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    wide_x, wide_gating = x.to(dtype), gating.to(dtype)
    hidden = linear(wide_x.movedim(1, -1), weight_x, bias) + linear(wide_gating.movedim(1, -1), weight_gating, None)
    attention = torch.sigmoid(linear(torch.relu(hidden), psi.unsqueeze(0), psi_bias)).movedim(-1, 1)
    return (wide_x * attention).to(x.dtype), attention.to(x.dtype)


@jit
def _project(
    hidden,  # [BLOCK_POSITIONS, BLOCK_HIDDEN] float32
    map_ptr,  # [BLOCK_POSITIONS, 1] pointers to channel 0
    weight_ptr,  # [F, DIM]
    inside,  # [BLOCK_POSITIONS, 1]
    outs,  # [BLOCK_HIDDEN]
    channel_stride,
    DIM: tl.constexpr,
    HIDDEN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Add the product of a map and a weight to the hidden features."""
    for start in range(0, DIM, BLOCK_CHANNELS):
        channels = start + tl.arange(0, BLOCK_CHANNELS)
        x_at = map_ptr + channels[None, :].to(tl.int64) * channel_stride
        x = tl.load(x_at, mask=inside & (channels < DIM)[None, :], other=0.0)
        mask = (channels < DIM)[:, None] & (outs < HIDDEN)[None, :]
        weight = tl.load(weight_ptr + outs[None, :] * DIM + channels[:, None], mask=mask, other=0.0)
        if WIDEN:
            x, weight = x.to(tl.float32), weight.to(tl.float32)
        hidden = tl.dot(x, weight, hidden, input_precision="ieee")
    return hidden


@jit
def _forward_kernel(
    x_ptr,  # [B, C, P]
    gating_ptr,  # [B, C_g, P]
    weight_x_ptr,  # [F, C] in the dtype of x
    weight_gating_ptr,  # [F, C_g] in the dtype of x
    bias_ptr,  # [F]
    psi_ptr,  # [F]
    psi_bias_ptr,  # [1]
    y_ptr,  # [B, C, P]
    attention_ptr,  # [B, P]
    num_positions,
    x_image_stride,
    x_channel_stride,
    x_position_stride,
    gating_image_stride,
    gating_channel_stride,
    gating_position_stride,
    y_image_stride,
    y_channel_stride,
    y_position_stride,
    DIM: tl.constexpr,
    GATING_DIM: tl.constexpr,
    HIDDEN: tl.constexpr,
    BLOCK_POSITIONS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    WIDEN: tl.constexpr,
):
    # Images and their blocks share an axis of the grid: the others end at 65,535.
    blocks = tl.cdiv(num_positions, BLOCK_POSITIONS)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    block = (tl.program_id(0) % blocks).to(tl.int64)
    positions = block * BLOCK_POSITIONS + tl.arange(0, BLOCK_POSITIONS)
    inside = (positions < num_positions)[:, None]
    x_ptr += image * x_image_stride + positions[:, None] * x_position_stride
    gating_ptr += image * gating_image_stride + positions[:, None] * gating_position_stride
    scores = tl.zeros((BLOCK_POSITIONS,), tl.float32) + tl.load(psi_bias_ptr).to(tl.float32)
    for first in range(0, HIDDEN, BLOCK_HIDDEN):
        outs = first + tl.arange(0, BLOCK_HIDDEN)
        bias = tl.load(bias_ptr + outs, mask=outs < HIDDEN, other=0.0).to(tl.float32)
        psi = tl.load(psi_ptr + outs, mask=outs < HIDDEN, other=0.0).to(tl.float32)
        hidden = tl.zeros((BLOCK_POSITIONS, BLOCK_HIDDEN), tl.float32) + bias[None, :]
        hidden = _project(
            hidden, x_ptr, weight_x_ptr, inside, outs, x_channel_stride, DIM, HIDDEN, BLOCK_CHANNELS, WIDEN
        )
        hidden = _project(
            hidden,
            gating_ptr,
            weight_gating_ptr,
            inside,
            outs,
            gating_channel_stride,
            GATING_DIM,
            HIDDEN,
            BLOCK_CHANNELS,
            WIDEN,
        )
        # As in torch, and other than by tl.maximum, what is no number stays so.
        scores += tl.sum(tl.where(hidden < 0, 0.0, hidden) * psi[None, :], axis=1)
    attention = tl.sigmoid(scores)
    attention_ptr += image * num_positions + positions
    tl.store(attention_ptr, attention.to(attention_ptr.dtype.element_ty), mask=positions < num_positions)
    y_ptr += image * y_image_stride + positions[:, None] * y_position_stride
    # The second time x comes from the cache.
    for start in range(0, DIM, BLOCK_CHANNELS):
        channels = (start + tl.arange(0, BLOCK_CHANNELS).to(tl.int64))[None, :]
        mask = inside & (channels < DIM)
        x = tl.load(x_ptr + channels * x_channel_stride, mask=mask, other=0.0).to(tl.float32)
        y = (x * attention[:, None]).to(y_ptr.dtype.element_ty)
        tl.store(y_ptr + channels * y_channel_stride, y, mask=mask)


@functools.lru_cache
def tile_of(dim: int, gating_dim: int, hidden: int, wide: bool) -> dict[str, int]:
    """Choose the launch settings; float32 (``wide``) is multiplied without tensor cores, which takes more registers.

    Returns:
        The keyword arguments ``BLOCK_POSITIONS``, ``BLOCK_CHANNELS``, ``BLOCK_HIDDEN`` (powers of two) and
        ``num_warps``; at most 64 hidden features a thread, or 32.
    """
    # Tensor cores take no fewer than 16 of anything.
    block_channels = min(max(triton.next_power_of_2(max(dim, gating_dim)), 16), 32 if wide else 64)
    block_hidden = min(max(triton.next_power_of_2(hidden), 16), 64 if wide else 128)
    return {
        "BLOCK_POSITIONS": 64 if wide or block_hidden > 64 else 128,
        "BLOCK_CHANNELS": block_channels,
        "BLOCK_HIDDEN": block_hidden,
        "num_warps": 4,
    }


def _forward(
    x: Tensor,
    gating: Tensor,
    weight_x: Tensor,
    weight_gating: Tensor,
    bias: Tensor,
    psi: Tensor,
    psi_bias: Tensor,
) -> tuple[Tensor, Tensor]:
    y, attention = new_map(x, x.shape[1]), x.new_empty((len(x), 1, *x.shape[2:]))
    if y.numel() == 0:
        return y, attention
    hidden, dim = weight_x.shape
    gating_dim = gating.shape[1]
    tile = tile_of(dim, gating_dim, hidden, x.dtype == torch.float32)
    # Views, but for strides that convolutions do not leave.
    flat_x, flat_gating, flat_y = x.flatten(2), gating.flatten(2), y.flatten(2)
    positions = flat_x.shape[2]
    with on_device_of(x):
        launcher(_forward_kernel)[(len(x) * ceil_div(positions, tile["BLOCK_POSITIONS"]),)](
            flat_x,
            flat_gating,
            weight_x.to(x.dtype).contiguous(),
            weight_gating.to(x.dtype).contiguous(),
            bias.contiguous(),
            psi.contiguous(),
            psi_bias,
            flat_y,
            attention,
            positions,
            *flat_x.stride(),
            *flat_gating.stride(),
            *flat_y.stride(),
            DIM=dim,
            GATING_DIM=gating_dim,
            HIDDEN=hidden,
            # The interpreter gets products of bfloat16 wrong.
            WIDEN=interpreting(),
            **tile,
        )
    return y, attention


def _backward(
    grad_y: Tensor,
    grad_attention: Tensor,
    x: Tensor,
    gating: Tensor,
    weight_x: Tensor,
    weight_gating: Tensor,
    bias: Tensor,
    psi: Tensor,
    psi_bias: Tensor,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Compute everything again and leave the products to torch, in float32: narrower ones would move signs of ReLU."""
    inputs = (x, gating, weight_x, weight_gating, bias, psi, psi_bias)
    wide_x, wide_gating = x.movedim(1, -1).float(), gating.movedim(1, -1).float()
    grad_y, grad_attention = grad_y.movedim(1, -1).float(), grad_attention.movedim(1, -1).float()
    weight_x, weight_gating = weight_x.float(), weight_gating.float()
    hidden = (wide_x @ weight_x.T + wide_gating @ weight_gating.T + bias.float()).relu()
    attention = (hidden @ psi.float()[:, None] + psi_bias.float()).sigmoid()
    grad_attention = grad_attention + (grad_y * wide_x).sum(-1, keepdim=True)
    grad_score = grad_attention * attention * (1 - attention)
    grad_hidden = torch.where(hidden > 0, grad_score * psi.float(), 0.0)
    rows = grad_hidden.reshape(-1, grad_hidden.shape[-1])
    grads = (
        (grad_y * attention + grad_hidden @ weight_x).movedim(-1, 1) if needs[0] else None,
        (grad_hidden @ weight_gating).movedim(-1, 1) if needs[1] else None,
        rows.T @ wide_x.reshape(-1, weight_x.shape[1]) if needs[2] else None,
        rows.T @ wide_gating.reshape(-1, weight_gating.shape[1]) if needs[3] else None,
        rows.sum(0) if needs[4] else None,
        hidden.reshape(rows.shape).T @ grad_score.flatten() if needs[5] else None,
        grad_score.sum().reshape(1) if needs[6] else None,
    )
    return tuple(None if grad is None else grad.to(of.dtype) for grad, of in zip(grads, inputs, strict=True))


_additive_gate = custom_op(
    "additive_gate",
    _forward,
    schema=(
        "(Tensor x, Tensor gating, Tensor weight_x, Tensor weight_gating, Tensor bias, Tensor psi, Tensor psi_bias)"
        " -> (Tensor, Tensor)"
    ),
)


@_additive_gate.register_fake
def _(x: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
    return new_map(x, x.shape[1]), x.new_empty((len(x), 1, *x.shape[2:]))


# Two operations for a multiply-add; the backward pass is of torch's own products.
@register_flop_formula(torch.ops.gatedvision.additive_gate)
def _(x: torch.Size, gating: torch.Size, weight_x: torch.Size, *arguments: Any, **_: Any) -> int:
    return 2 * weight_x[0] * (x[0] * x[2:].numel()) * (x[1] + gating[1] + 1)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(
    backward: Callable[..., Any], ctx: Any, grad_y: Tensor, grad_attention: Tensor
) -> tuple[Tensor | None, ...]:
    return backward(grad_y, grad_attention, *ctx.saved_tensors, ctx.needs_input_grad)


_run = two_ways(_additive_gate, _forward, _backward, _backward, _save, _differentiate)
