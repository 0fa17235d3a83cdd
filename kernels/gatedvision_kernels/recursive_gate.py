"""The recursion of HorNet's gated convolution: gate after gate, each twice as wide as the one before.

With the parts g_0, ..., g_(n-1) of the gates, of widths d_k = 2^k d_0, and y_0 = s x g_0
(Y. Rao et al., arXiv:2207.14284, section 3.1)::

    z_k = W_k y_(k-1) + b_k
    y_k = s z_k g_k                     k = 1, ..., n - 1

Shapes: n order, d_k width of step k, S = (2^n - 1) d_0 all widths together, R rows (all leading axes together),
P programs that share the rows. The kernels do a single step, of width D; matrix products are left to torch.
"""
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import torch
from torch import Tensor

from gatedvision_kernels._device import on_device_of
from gatedvision_kernels._dispatch import use_triton
from gatedvision_kernels._linear import apply_linear
from gatedvision_kernels._operator import custom_op, launcher
from gatedvision_kernels._rows import as_rows, block_of, ceil_div, num_programs
from gatedvision_kernels._triton import jit, tl
from gatedvision_kernels._two_ways import two_ways


def recursive_gate(
    x: Tensor, gates: Tensor, weight: Tensor, bias: Tensor, *, scale: float = 1.0, backend: str = "auto"
) -> Tensor:
    """Multiply a vector by a gate, and again after each linear step to twice the width.

    Args:
        x: ``[..., d_0]``.
        gates: ``[..., S]`` in the dtype of ``x``, those of the narrowest step first.
        weight: ``[d_1 d_0 + ... + d_(n-1) d_(n-2)]``, the matrices ``[d_k, d_(k-1)]`` one after the other, row by
            row, in any floating dtype; the products are taken in the dtype of ``x``.
        bias: ``[S - d_0]``, those of all steps one after the other, in any floating dtype.
        scale: s, multiplies the gates.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        ``[..., d_(n-1)]`` in the dtype of ``x``.

    Raises:
        ValueError: if shapes or dtypes do not fit, or the backend cannot run on these tensors.
    """
    _check(x, gates, weight, bias)
    if use_triton(backend, x, gates, weight, bias):
        return _run(x, gates, weight, bias, scale)[0]
    return recursive_gate_reference(x, gates, weight, bias, scale)


def recursive_gate_reference(x: Tensor, gates: Tensor, weight: Tensor, bias: Tensor, scale: float = 1.0) -> Tensor:
    """Define :func:`recursive_gate` in plain torch: any device, float64 for float64 input.

    TorchScript, which cannot ask for the type of a device, leaves the types of the products to autocast.
    """
    if torch.jit.is_scripting():
        return _recur(x, gates, weight, bias, scale)
    else:
        # Programs that torch.export records would keep the context: it is entered only where it changes something.
        if not x.is_meta and torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return _recur(x, gates, weight, bias, scale)
        return _recur(x, gates, weight, bias, scale)


def _recur(x: Tensor, gates: Tensor, weight: Tensor, bias: Tensor, scale: float) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    widths = [x.shape[-1]]
    while sum(widths) < gates.shape[-1]:
        widths.append(2 * widths[-1])
    steps = (gates.to(dtype) * scale).split(widths, dim=-1)
    y = x.to(dtype) * steps[0]
    weight, bias = weight.to(dtype), bias.to(dtype)
    first_weight, first_bias = 0, 0
    for k in range(1, len(widths)):
        size = widths[k] * widths[k - 1]
        matrix = weight[first_weight : first_weight + size].view(widths[k], widths[k - 1])
        y = apply_linear(y, matrix, bias[first_bias : first_bias + widths[k]]) * steps[k]
        first_weight, first_bias = first_weight + size, first_bias + widths[k]
    return y.to(x.dtype)


def _check(x: Tensor, gates: Tensor, weight: Tensor, bias: Tensor) -> None:
    if x.ndim == 0 or x.shape[-1] == 0 or not x.is_floating_point():
        raise ValueError(f"x must be floating point [..., d_0] with d_0 > 0, got {x.dtype} {tuple(x.shape)}")
    width = x.shape[-1]
    order = _order_of(width, gates.shape[-1]) if gates.ndim else 0
    if gates.shape[:-1] != x.shape[:-1] or gates.dtype != x.dtype or gates.shape[-1] != (2**order - 1) * width:
        widths = ", ".join(str((2**n - 1) * width) for n in range(1, 5))
        raise ValueError(
            f"gates must be {x.dtype} with {widths} or so on channels and the other axes of x {tuple(x.shape)}, "
            f"got {gates.dtype} {tuple(gates.shape)}"
        )
    weights = width**2 * 2 * (4 ** (order - 1) - 1) // 3
    for name, vector, length in (("weight", weight, weights), ("bias", bias, gates.shape[-1] - width)):
        if vector.shape != (length,) or not vector.is_floating_point():
            raise ValueError(
                f"{name} must be floating point ({length},) beside x {tuple(x.shape)} and gates "
                f"{tuple(gates.shape)}, got {vector.dtype} {tuple(vector.shape)}"
            )


def _order_of(width: int, widths: int) -> int:
    """Return n, of which ``widths`` is the sum S if it is one."""
    # In traced programs they are tensors.
    return int(widths // width).bit_length()


def _cut(weight: Tensor, bias: Tensor, width: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Return matrix and bias of every step, in ``dtype``."""
    order = _order_of(width, width + len(bias))
    widths = [width * 2**k for k in range(order)]
    sizes = [2 * d * d for d in widths[:-1]]
    matrices = [m.view(2 * d, d) for m, d in zip(weight.to(dtype).split(sizes), widths, strict=False)]
    return list(zip(matrices, bias.to(dtype).split(widths[1:]), strict=True)) if matrices else []


@jit
def _forward_kernel(
    x_ptr,  # [R, D]
    gate_ptr,  # [R, D]
    y_ptr,  # [R, D]
    num_rows,
    x_stride,
    gate_stride,
    scale,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    # Code that torch.compile writes passes numbers in double precision.
    scale = tl.cast(scale, tl.float32)
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    columns = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)[None, :]
    mask = (rows < num_rows) & (columns < WIDTH)
    x = tl.load(x_ptr + rows * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + rows * gate_stride + columns, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_ptr + rows * WIDTH + columns, (scale * x * gate).to(y_ptr.dtype.element_ty), mask=mask)


@jit
def _backward_kernel(
    x_ptr,  # [R, D]
    gate_ptr,  # [R, D]
    grad_y_ptr,  # [R, D]
    y_ptr,  # [R, D], the output once more, or None where nothing needs it
    grad_x_ptr,  # [R, D]
    grad_gates_ptr,  # [R, S], written from column first to first + D
    sums_ptr,  # [P, D] float32, of the gradient of x, or None where nothing needs them
    num_rows,
    x_stride,
    gate_stride,
    grad_y_stride,
    grad_gates_stride,
    first,
    scale,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    # Code that torch.compile writes passes numbers in double precision.
    scale = tl.cast(scale, tl.float32)
    columns = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)[None, :]
    # Summed over rows only once, at the end: inside the loop that would cost a reduction per block.
    sums = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(num_rows, BLOCK_ROWS), tl.num_programs(0)):
        rows = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS).to(tl.int64)[:, None]
        mask = (rows < num_rows) & (columns < WIDTH)
        x = scale * tl.load(x_ptr + rows * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
        gate = tl.load(gate_ptr + rows * gate_stride + columns, mask=mask, other=0.0).to(tl.float32)
        grad_y = tl.load(grad_y_ptr + rows * grad_y_stride + columns, mask=mask, other=0.0).to(tl.float32)
        grad_x = scale * gate * grad_y
        tl.store(grad_x_ptr + rows * WIDTH + columns, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)
        grad_gate = (x * grad_y).to(grad_gates_ptr.dtype.element_ty)
        tl.store(grad_gates_ptr + rows * grad_gates_stride + first + columns, grad_gate, mask=mask)
        if y_ptr is not None:
            tl.store(y_ptr + rows * WIDTH + columns, (x * gate).to(y_ptr.dtype.element_ty), mask=mask)
        sums += grad_x
    if sums_ptr is not None:
        sums_ptr += tl.program_id(0) * WIDTH + columns
        tl.store(sums_ptr, tl.sum(sums, axis=0)[None, :], mask=columns < WIDTH)


def _multiply(x: Tensor, gate: Tensor, scale: float) -> Tensor:
    """Return ``scale * x * gate`` for ``[R, D]`` with adjacent elements."""
    y = x.new_empty(x.shape)
    num_rows, width = x.shape
    tile = block_of(width)
    grid = (ceil_div(num_rows, tile["BLOCK_ROWS"]), ceil_div(width, tile["BLOCK_WIDTH"]))
    launcher(_forward_kernel)[grid](x, gate, y, num_rows, x.stride(0), gate.stride(0), scale, WIDTH=width, **tile)
    return y


def _differentiate_product(
    x: Tensor, gate: Tensor, grad_y: Tensor, grad_gates: Tensor, first: int, scale: float, *, last: bool, sums: bool
) -> tuple[Tensor, Optional[Tensor], Optional[Tensor]]:
    """Write the gradient of the gate and return that of ``x``, its sums over rows, and the product once more.

    A compiler would write to a part of the gates' gradient by way of copies, so the kernel gets the whole of it.
    """
    num_rows, width = x.shape
    grad_x = x.new_empty(x.shape)
    y = None if last else x.new_empty(x.shape)
    tile = block_of(width)
    programs = num_programs(x.device, ceil_div(num_rows, tile["BLOCK_ROWS"]))
    partial_sums = x.new_empty((programs, width), dtype=torch.float32) if sums else None
    launcher(_backward_kernel)[(programs, ceil_div(width, tile["BLOCK_WIDTH"]))](
        x,
        gate,
        grad_y,
        y,
        grad_x,
        grad_gates,
        partial_sums,
        num_rows,
        x.stride(0),
        gate.stride(0),
        grad_y.stride(0),
        grad_gates.stride(0),
        first,
        scale,
        WIDTH=width,
        **tile,
    )
    return grad_x, None if partial_sums is None else partial_sums.sum(0), y


def _forward(x: Tensor, gates: Tensor, weight: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, list[Tensor]]:
    """Return y_(n-1) and, for the backward pass, z_1 to z_(n-1) as rows."""
    shape = [*x.shape[:-1], (gates.shape[-1] + x.shape[-1]) // 2]
    y, gates = as_rows(x), as_rows(gates)
    width, steps = y.shape[1], []
    with on_device_of(x), torch.autocast(x.device.type, enabled=False):
        y = _multiply(y, gates[:, :width], scale)
        for matrix, vector in _cut(weight, bias, width, y.dtype):
            steps.append(torch.addmm(vector, y, matrix.t()))
            first, width = 2 * width - x.shape[-1], 2 * width
            y = _multiply(steps[-1], gates[:, first : first + width], scale)
    return y.view(shape), steps


def _backward(
    grad_y: Tensor, x: Tensor, gates: Tensor, weight: Tensor, bias: Tensor, steps: list[Tensor], scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of ``x``, ``gates``, ``weight`` and, in float32, ``bias``."""
    grad_gates = gates.new_empty(gates.shape)
    grad_gate_rows = grad_gates.view(-1, gates.shape[-1])
    grad, x_rows, gates = as_rows(grad_y), as_rows(x), as_rows(gates)
    narrowest, first = x.shape[-1], gates.shape[1]
    matrices = [matrix for matrix, _ in _cut(weight, bias, narrowest, x.dtype)]
    grad_matrices, grad_biases = [], []
    grad_z = None
    with on_device_of(x), torch.autocast(x.device.type, enabled=False):
        for k in range(len(steps), -1, -1):
            z, width = (steps[k - 1] if k else x_rows), narrowest << k
            first -= width
            gate = gates[:, first : first + width]
            grad, sums, y = _differentiate_product(
                z, gate, grad, grad_gate_rows, first, scale, last=k == len(steps), sums=k > 0
            )
            if grad_z is not None:
                grad_matrices.append((grad_z.t() @ y).flatten())
            if k:
                grad_biases.append(sums)
                grad_z, grad = grad, grad @ matrices[k - 1]
    grad_weight = torch.cat(grad_matrices[::-1]).to(weight.dtype) if steps else torch.empty_like(weight)
    grad_bias = torch.cat(grad_biases[::-1]) if steps else bias.new_empty(bias.shape, dtype=torch.float32)
    return grad.view(x.shape), grad_gates, grad_weight, grad_bias


_recursive_gate = custom_op(
    "recursive_gate",
    _forward,
    schema="(Tensor x, Tensor gates, Tensor weight, Tensor bias, float scale) -> (Tensor, Tensor[])",
)
_recursive_gate_backward = custom_op(
    "recursive_gate_backward",
    _backward,
    schema="(Tensor grad_y, Tensor x, Tensor gates, Tensor weight, Tensor bias, Tensor[] steps, float scale)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)


@_recursive_gate.register_fake
def _(x: Tensor, gates: Tensor, weight: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, list[Tensor]]:
    width, rows = x.shape[-1], x.numel() // x.shape[-1]
    widths = [width * 2**k for k in range(_order_of(width, gates.shape[-1]))]
    return x.new_empty((*x.shape[:-1], widths[-1])), [x.new_empty((rows, d)) for d in widths[1:]]


@_recursive_gate_backward.register_fake
def _(
    grad_y: Tensor, x: Tensor, gates: Tensor, weight: Tensor, bias: Tensor, steps: list[Tensor], scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_bias = bias.new_empty(bias.shape, dtype=torch.float32)
    return x.new_empty(x.shape), gates.new_empty(gates.shape), weight.new_empty(weight.shape), grad_bias


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor, float], output: tuple[Tensor, list[Tensor]]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output[1])
    # The steps are kept for the backward pass and have no gradients of their own.
    ctx.set_materialize_grads(False)


def _differentiate(backward: Callable, ctx: Any, grad_y: Optional[Tensor], _: Any) -> tuple[Optional[Tensor], ...]:
    if grad_y is None:
        return (None,) * 5
    x, gates, weight, bias, *steps = ctx.saved_tensors
    grad_x, grad_gates, grad_weight, grad_bias = backward(grad_y, x, gates, weight, bias, steps, ctx.scale)
    return grad_x, grad_gates, grad_weight, grad_bias.to(bias.dtype), None


_run = two_ways(_recursive_gate, _forward, _recursive_gate_backward, _backward, _save, _differentiate)
