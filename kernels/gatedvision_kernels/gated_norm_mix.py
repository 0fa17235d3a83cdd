"""Gated mix of two normalised branches: the locality injection of ViG.

For rows a, b, z of V elements (global branch, local branch, gate logits; ViG, arXiv:2405.18425),
with n(x) = x / sqrt(mean(x^2) + eps) and a weight per channel for each branch::

    y = act( sigmoid(z) * n(a) * weight_a  +  (1 - sigmoid(z)) * n(b) * weight_b )

act is the identity or SiLU.
Shapes: V width of a row, R rows (batch, tokens and heads together), P programs that share the rows.
"""
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gatedvision_kernels._device import on_device_of
from gatedvision_kernels._dispatch import use_triton
from gatedvision_kernels._operator import custom_op, launcher
from gatedvision_kernels._rows import as_rows, ceil_div, num_programs, tile_of
from gatedvision_kernels._triton import jit, tl
from gatedvision_kernels._tuning import setting
from gatedvision_kernels._two_ways import two_ways

ACTIVATIONS = ("identity", "silu")


def gated_norm_mix(
    global_branch: Tensor,
    local_branch: Tensor,
    gate: Tensor,
    global_weight: Tensor,
    local_weight: Tensor,
    *,
    eps: float = 1e-6,
    activation: str = "identity",
    backend: str = "auto",
) -> Tensor:
    """Normalise two branches by root mean square and mix them with a gate per channel.

    Args:
        global_branch: ``[..., V]``, weighted by ``sigmoid(gate)``.
        local_branch: ``[..., V]``, weighted by ``1 - sigmoid(gate)``.
        gate: ``[..., V]``, logits.
        global_weight: ``[V]``, factor of the normalised global branch.
        local_weight: ``[V]``, factor of the normalised local branch.
        eps: added to both mean squares.
        activation: ``"identity"`` or ``"silu"``, applied to the mix.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        ``[..., V]`` in the dtype of ``global_branch``, computed in float32 or wider.

    Raises:
        ValueError: if shapes or dtypes do not fit, for an unknown activation, or if the backend
            cannot run on these tensors.
    """
    tensors = (global_branch, local_branch, gate, global_weight, local_weight)
    shape = global_branch.shape
    if len(shape) == 0 or shape[-1] == 0 or local_branch.shape != shape or gate.shape != shape:
        raise ValueError(
            "global_branch, local_branch and gate must share one shape [..., V], V > 0; "
            f"got {tuple(shape)}, {tuple(local_branch.shape)} and {tuple(gate.shape)}"
        )
    if global_weight.shape != shape[-1:] or local_weight.shape != shape[-1:]:
        raise ValueError(
            f"global_weight and local_weight must have shape ({shape[-1]},); "
            f"got {tuple(global_weight.shape)} and {tuple(local_weight.shape)}"
        )
    if not all(t.is_floating_point() for t in tensors):
        raise ValueError(f"all tensors must be floating point, got {[str(t.dtype) for t in tensors]}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {ACTIVATIONS}, got {activation!r}")
    if use_triton(backend, *tensors):
        return _run(*tensors, eps, activation)
    return gated_norm_mix_reference(*tensors, eps, activation)


def gated_norm_mix_reference(
    global_branch: Tensor,
    local_branch: Tensor,
    gate: Tensor,
    global_weight: Tensor,
    local_weight: Tensor,
    eps: float = 1e-6,
    activation: str = "identity",
) -> Tensor:
    """Define :func:`gated_norm_mix` in plain torch: any device, float64 for float64 input."""
    wide = torch.promote_types(global_branch.dtype, torch.float32)
    share = torch.sigmoid(gate.to(wide))
    a = global_branch.to(wide)
    b = local_branch.to(wide)
    a = a * torch.rsqrt(a.square().mean(-1, keepdim=True) + eps) * global_weight.to(wide)
    b = b * torch.rsqrt(b.square().mean(-1, keepdim=True) + eps) * local_weight.to(wide)
    mix = torch.lerp(b, a, share)
    if activation == "silu":
        mix = F.silu(mix)
    return mix.to(global_branch.dtype)


@jit
def _forward_kernel(
    global_ptr,  # [R, V]
    local_ptr,  # [R, V]
    gate_ptr,  # [R, V]
    global_weight_ptr,  # [V]
    local_weight_ptr,  # [V]
    y_ptr,  # [R, V]
    num_rows,
    global_stride,
    local_stride,
    gate_stride,
    eps,
    SILU: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    # Code that torch.compile writes passes numbers in double precision.
    eps = tl.cast(eps, tl.float32)
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    columns = tl.arange(0, BLOCK_WIDTH)[None, :]
    mask = (rows < num_rows) & (columns < WIDTH)
    global_weight = tl.load(global_weight_ptr + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    local_weight = tl.load(local_weight_ptr + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)

    a = tl.load(global_ptr + rows * global_stride + columns, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(local_ptr + rows * local_stride + columns, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + rows * gate_stride + columns, mask=mask, other=0.0).to(tl.float32)
    a *= tl.rsqrt(tl.sum(a * a, axis=1) / WIDTH + eps)[:, None]
    b *= tl.rsqrt(tl.sum(b * b, axis=1) / WIDTH + eps)[:, None]
    share = tl.sigmoid(gate)
    y = share * a * global_weight + (1 - share) * b * local_weight
    if SILU:
        y *= tl.sigmoid(y)
    tl.store(y_ptr + rows * WIDTH + columns, y.to(y_ptr.dtype.element_ty), mask=mask)


@jit
def _backward_kernel(
    grad_y_ptr,  # [R, V]
    global_ptr,  # [R, V]
    local_ptr,  # [R, V]
    gate_ptr,  # [R, V]
    global_weight_ptr,  # [V]
    local_weight_ptr,  # [V]
    grad_global_ptr,  # [R, V]
    grad_local_ptr,  # [R, V]
    grad_gate_ptr,  # [R, V]
    grad_weights_ptr,  # [2, P, V], global before local
    num_rows,
    grad_y_stride,
    global_stride,
    local_stride,
    gate_stride,
    eps,
    SILU: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    # Code that torch.compile writes passes numbers in double precision.
    eps = tl.cast(eps, tl.float32)
    columns = tl.arange(0, BLOCK_WIDTH)[None, :]
    global_weight = tl.load(global_weight_ptr + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    local_weight = tl.load(local_weight_ptr + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    # Summed over rows only once, at the end: inside the loop that would cost a reduction per block.
    grad_global_weight = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), tl.float32)
    grad_local_weight = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(num_rows, BLOCK_ROWS), tl.num_programs(0)):
        rows = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS).to(tl.int64)[:, None]
        mask = (rows < num_rows) & (columns < WIDTH)
        a = tl.load(global_ptr + rows * global_stride + columns, mask=mask, other=0.0).to(tl.float32)
        b = tl.load(local_ptr + rows * local_stride + columns, mask=mask, other=0.0).to(tl.float32)
        gate = tl.load(gate_ptr + rows * gate_stride + columns, mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(grad_y_ptr + rows * grad_y_stride + columns, mask=mask, other=0.0).to(tl.float32)

        # Taken again rather than saved: the rows are here anyway.
        a_scale = tl.rsqrt(tl.sum(a * a, axis=1) / WIDTH + eps)[:, None]
        b_scale = tl.rsqrt(tl.sum(b * b, axis=1) / WIDTH + eps)[:, None]
        a *= a_scale
        b *= b_scale
        share = tl.sigmoid(gate)
        difference = a * global_weight - b * local_weight
        if SILU:
            mix = share * difference + b * local_weight
            slope = tl.sigmoid(mix)
            grad *= slope * (1 + mix * (1 - slope))

        offsets = rows * WIDTH + columns
        grad_gate = grad * difference * share * (1 - share)
        tl.store(grad_gate_ptr + offsets, grad_gate.to(grad_gate_ptr.dtype.element_ty), mask=mask)

        grad_a = grad * share
        grad_global_weight += grad_a * a
        grad_a *= global_weight
        grad_a = (grad_a - a * (tl.sum(grad_a * a, axis=1)[:, None] / WIDTH)) * a_scale
        tl.store(grad_global_ptr + offsets, grad_a.to(grad_global_ptr.dtype.element_ty), mask=mask)

        grad_b = grad * (1 - share)
        grad_local_weight += grad_b * b
        grad_b *= local_weight
        grad_b = (grad_b - b * (tl.sum(grad_b * b, axis=1)[:, None] / WIDTH)) * b_scale
        tl.store(grad_local_ptr + offsets, grad_b.to(grad_local_ptr.dtype.element_ty), mask=mask)

    offsets = tl.program_id(0) * WIDTH + columns
    tl.store(grad_weights_ptr + offsets, tl.sum(grad_global_weight, axis=0)[None, :], mask=columns < WIDTH)
    offsets += tl.num_programs(0) * WIDTH
    tl.store(grad_weights_ptr + offsets, tl.sum(grad_local_weight, axis=0)[None, :], mask=columns < WIDTH)


def _forward(
    global_branch: Tensor,
    local_branch: Tensor,
    gate: Tensor,
    global_weight: Tensor,
    local_weight: Tensor,
    eps: float,
    activation: str,
) -> Tensor:
    y = global_branch.new_empty(global_branch.shape)
    a, b, gate = as_rows(global_branch), as_rows(local_branch), as_rows(gate)
    num_rows, width = a.shape
    tile = tile_of(width, setting("mix_elements"))
    with on_device_of(a):
        launcher(_forward_kernel)[(ceil_div(num_rows, tile["BLOCK_ROWS"]),)](
            a,
            b,
            gate,
            global_weight.contiguous(),
            local_weight.contiguous(),
            y,
            num_rows,
            a.stride(0),
            b.stride(0),
            gate.stride(0),
            eps,
            SILU=activation == "silu",
            WIDTH=width,
            **tile,
        )
    return y


def _backward(
    grad_y: Tensor,
    global_branch: Tensor,
    local_branch: Tensor,
    gate: Tensor,
    global_weight: Tensor,
    local_weight: Tensor,
    eps: float,
    activation: str,
) -> tuple[Tensor, ...]:
    grad_global, grad_local, grad_gate = (t.new_empty(t.shape) for t in (global_branch, local_branch, gate))
    grad_y, a, b, gate = (as_rows(t) for t in (grad_y, global_branch, local_branch, gate))
    num_rows, width = a.shape
    tile = tile_of(width, setting("mix_elements"))
    programs = num_programs(a.device, ceil_div(num_rows, tile["BLOCK_ROWS"]))
    partial_grad_weights = a.new_empty((2, programs, width), dtype=torch.float32)
    with on_device_of(a):
        launcher(_backward_kernel)[(programs,)](
            grad_y,
            a,
            b,
            gate,
            global_weight.contiguous(),
            local_weight.contiguous(),
            grad_global,
            grad_local,
            grad_gate,
            partial_grad_weights,
            num_rows,
            grad_y.stride(0),
            a.stride(0),
            b.stride(0),
            gate.stride(0),
            eps,
            SILU=activation == "silu",
            WIDTH=width,
            **tile,
        )
    grad_global_weight = partial_grad_weights[0].sum(0).to(global_weight.dtype)
    grad_local_weight = partial_grad_weights[1].sum(0).to(local_weight.dtype)
    return grad_global, grad_local, grad_gate, grad_global_weight, grad_local_weight


_gated_norm_mix = custom_op(
    "gated_norm_mix",
    _forward,
    schema="(Tensor global_branch, Tensor local_branch, Tensor gate, Tensor global_weight, Tensor local_weight, "
    "float eps, str activation) -> Tensor",
)
_gated_norm_mix_backward = custom_op(
    "gated_norm_mix_backward",
    _backward,
    schema="(Tensor grad_y, Tensor global_branch, Tensor local_branch, Tensor gate, Tensor global_weight, "
    "Tensor local_weight, float eps, str activation) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)


@_gated_norm_mix.register_fake
def _(global_branch: Tensor, *_: Any) -> Tensor:
    return global_branch.new_empty(global_branch.shape)


@_gated_norm_mix_backward.register_fake
def _(grad_y: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in inputs[:5])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps, ctx.activation = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(backward: Callable[..., tuple[Tensor, ...]], ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    return *backward(grad_y, *ctx.saved_tensors, ctx.eps, ctx.activation), None, None


_run = two_ways(_gated_norm_mix, _forward, _gated_norm_mix_backward, _backward, _save, _differentiate)
