"""Product of two gates: the spatial mixer of MogaNet, alone or with the linear layer after it.

For gate g and value v, element by element (MogaNet, arXiv:2211.03295, section 4.2), with silu(x) = x sigmoid(x)::

    y = silu(g) silu(v)     or, doubled,     y = silu(silu(g)) silu(silu(v))

    out = y W^T + b

Shapes: C channels, R rows (all leading axes together), O outputs of the linear layer.
"""
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from gatedvision_kernels._device import on_device_of
from gatedvision_kernels._dispatch import use_triton
from gatedvision_kernels._operator import custom_op, launcher
from gatedvision_kernels._recomputed_linear import check_linear, linear, recomputed_linear
from gatedvision_kernels._rows import as_rows, block_of, ceil_div
from gatedvision_kernels._triton import jit, tl
from gatedvision_kernels._two_ways import two_ways


def gated_product(gate: Tensor, value: Tensor, *, double: bool = False, backend: str = "auto") -> Tensor:
    """Multiply the SiLU of a gate by the SiLU of a value.

    Args:
        gate: ``[..., C]``.
        value: ``[..., C]``, in the dtype of ``gate``.
        double: apply SiLU twice to both.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        ``[..., C]`` in the dtype of ``gate``, computed in float32 or wider.

    Raises:
        ValueError: if shapes or dtypes do not fit, or the backend cannot run on these tensors.
    """
    _check(gate, value)
    if use_triton(backend, gate, value):
        return _run(gate, value, double)
    return gated_product_reference(gate, value, double)


def gated_product_linear(
    gate: Tensor,
    value: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    *,
    double: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Apply a linear layer to the gated product; the kernels compute the product again rather than keep it.

    Args:
        gate: ``[..., C]``.
        value: ``[..., C]``, in the dtype of ``gate``.
        weight: ``[O, C]``, in any floating dtype.
        bias: ``[O]``, in any floating dtype, or nothing.
        double: apply SiLU twice to both.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        ``[..., O]`` in the dtype of ``gate``, to which the product is rounded and weight and bias are cast.

    Raises:
        ValueError: if shapes or dtypes do not fit, or the backend cannot run on these tensors.
    """
    _check(gate, value)
    check_linear(weight, bias, gate.shape[-1])
    parameters = (weight,) if bias is None else (weight, bias)
    if use_triton(backend, gate, value, *parameters):
        return _run_linear(weight, bias, gate, value, double)
    return gated_product_linear_reference(gate, value, weight, bias, double)


def gated_product_reference(gate: Tensor, value: Tensor, double: bool = False) -> Tensor:
    """Define :func:`gated_product` in plain torch: any device, float64 for float64 input."""
    dtype = torch.promote_types(gate.dtype, torch.float32)
    a, b = F.silu(gate.to(dtype)), F.silu(value.to(dtype))
    if double:
        a, b = F.silu(a), F.silu(b)
    return (a * b).to(gate.dtype)


def gated_product_linear_reference(
    gate: Tensor, value: Tensor, weight: Tensor, bias: Optional[Tensor] = None, double: bool = False
) -> Tensor:
    """Define :func:`gated_product_linear` in plain torch: any device, float64 for float64 input."""
    return linear(gated_product_reference(gate, value, double), weight, bias)


def _check(gate: Tensor, value: Tensor) -> None:
    if gate.ndim == 0 or gate.shape[-1] == 0 or value.shape != gate.shape:
        raise ValueError(
            f"gate and value must share one shape [..., C], C > 0; got {tuple(gate.shape)} and {tuple(value.shape)}"
        )
    if not gate.is_floating_point() or value.dtype != gate.dtype:
        raise ValueError(f"gate and value must share one floating dtype, got {gate.dtype} and {value.dtype}")


@jit
def _activate(x, DOUBLE: tl.constexpr):
    """Return SiLU, or the SiLU of it, and its slope."""
    share = tl.sigmoid(x)
    y = x * share
    slope = share + y * (1 - share)
    if DOUBLE:
        share = tl.sigmoid(y)
        slope *= share + y * share * (1 - share)
        y *= share
    return y, slope


@jit
def _forward_kernel(
    gate_ptr,  # [R, C]
    value_ptr,  # [R, C]
    y_ptr,  # [R, C]
    num_rows,
    gate_stride,
    value_stride,
    DOUBLE: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    columns = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)[None, :]
    mask = (rows < num_rows) & (columns < WIDTH)
    gate = tl.load(gate_ptr + rows * gate_stride + columns, mask=mask, other=0.0).to(tl.float32)
    value = tl.load(value_ptr + rows * value_stride + columns, mask=mask, other=0.0).to(tl.float32)
    gate, _ = _activate(gate, DOUBLE)
    value, _ = _activate(value, DOUBLE)
    tl.store(y_ptr + rows * WIDTH + columns, (gate * value).to(y_ptr.dtype.element_ty), mask=mask)


@jit
def _backward_kernel(
    grad_y_ptr,  # [R, C]
    gate_ptr,  # [R, C]
    value_ptr,  # [R, C]
    grad_gate_ptr,  # [R, C]
    grad_value_ptr,  # [R, C]
    y_ptr,  # [R, C], the output once more
    num_rows,
    grad_y_stride,
    gate_stride,
    value_stride,
    DOUBLE: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    columns = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)[None, :]
    mask = (rows < num_rows) & (columns < WIDTH)
    grad_y = tl.load(grad_y_ptr + rows * grad_y_stride + columns, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + rows * gate_stride + columns, mask=mask, other=0.0).to(tl.float32)
    value = tl.load(value_ptr + rows * value_stride + columns, mask=mask, other=0.0).to(tl.float32)
    gate, gate_slope = _activate(gate, DOUBLE)
    value, value_slope = _activate(value, DOUBLE)
    grad_gate = grad_y * value * gate_slope
    grad_value = grad_y * gate * value_slope
    offsets = rows * WIDTH + columns
    tl.store(grad_gate_ptr + offsets, grad_gate.to(grad_gate_ptr.dtype.element_ty), mask=mask)
    tl.store(grad_value_ptr + offsets, grad_value.to(grad_value_ptr.dtype.element_ty), mask=mask)
    tl.store(y_ptr + offsets, (gate * value).to(y_ptr.dtype.element_ty), mask=mask)


def _forward(gate: Tensor, value: Tensor, double: bool) -> Tensor:
    y = gate.new_empty(gate.shape)
    gate, value = as_rows(gate), as_rows(value)
    num_rows, width = gate.shape
    tile = block_of(width)
    grid = (ceil_div(num_rows, tile["BLOCK_ROWS"]), ceil_div(width, tile["BLOCK_WIDTH"]))
    with on_device_of(gate):
        launcher(_forward_kernel)[grid](
            gate, value, y, num_rows, gate.stride(0), value.stride(0), DOUBLE=double, WIDTH=width, **tile
        )
    return y


def _backward(grad_y: Tensor, gate: Tensor, value: Tensor, double: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of gate and value, and the output once more."""
    grad_gate, grad_value, y = (gate.new_empty(gate.shape) for _ in range(3))
    grad_y, gate, value = as_rows(grad_y), as_rows(gate), as_rows(value)
    num_rows, width = gate.shape
    tile = block_of(width)
    grid = (ceil_div(num_rows, tile["BLOCK_ROWS"]), ceil_div(width, tile["BLOCK_WIDTH"]))
    with on_device_of(gate):
        launcher(_backward_kernel)[grid](
            grad_y,
            gate,
            value,
            grad_gate,
            grad_value,
            y,
            num_rows,
            grad_y.stride(0),
            gate.stride(0),
            value.stride(0),
            DOUBLE=double,
            WIDTH=width,
            **tile,
        )
    return grad_gate, grad_value, y


SCHEMA = "Tensor gate, Tensor value, bool double"
_gated_product = custom_op("gated_product", _forward, schema=f"({SCHEMA}) -> Tensor")
_gated_product_backward = custom_op(
    "gated_product_backward",
    _backward,
    schema=f"(Tensor grad_y, {SCHEMA}) -> (Tensor, Tensor, Tensor)",
)


@_gated_product.register_fake
def _(gate: Tensor, value: Tensor, double: bool) -> Tensor:
    return gate.new_empty(gate.shape)


@_gated_product_backward.register_fake
def _(grad_y: Tensor, gate: Tensor, value: Tensor, double: bool) -> tuple[Tensor, Tensor, Tensor]:
    return gate.new_empty(gate.shape), gate.new_empty(gate.shape), gate.new_empty(gate.shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, bool], output: Tensor) -> None:
    gate, value, ctx.double = inputs
    ctx.save_for_backward(gate, value)


def _differentiate(backward: Callable, ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor, None]:
    grad_gate, grad_value, _ = backward(grad_y, *ctx.saved_tensors, ctx.double)
    return grad_gate, grad_value, None


_run = two_ways(_gated_product, _forward, _gated_product_backward, _backward, _save, _differentiate)
_run_linear = recomputed_linear("gated_product_linear", SCHEMA, _forward, _gated_product_backward, _backward)
