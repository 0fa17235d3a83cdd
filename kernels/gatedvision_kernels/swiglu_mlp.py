"""The gated multilayer perceptron of ViG as one operator that keeps its input alone.

With weights W [2I, D], whose halves are gate and value, and W' [O, I] (N. Shazeer, arXiv:2002.05202)::

    y = (silu(x W_gate^T) * (x W_value^T)) W'^T

What is hidden, 2I and then I wide, never leaves the first kernel. The backward kernel computes it again from x, tile by
tile, and the gradient that reaches it from that of y; it writes the activation and the gradient of the first product,
from which matrix products of torch make those of x and of both weights.

Shapes: D width of a row, I width of the activation, O of the result, R rows (all leading axes together).
"""
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from gatedvision_kernels._device import on_device_of
from gatedvision_kernels._dispatch import use_triton
from gatedvision_kernels._operand import operand_of
from gatedvision_kernels._operator import custom_op, launcher
from gatedvision_kernels._recomputed_linear import linear
from gatedvision_kernels._rows import as_rows, ceil_div
from gatedvision_kernels._triton import jit, tl
from gatedvision_kernels._two_ways import two_ways
from gatedvision_kernels.swiglu import swiglu, swiglu_reference

FORWARD_TILE = {"BLOCK_ROWS": 128, "BLOCK_COLUMNS": 64, "BLOCK_DEPTH": 64, "num_warps": 8}
BACKWARD_TILE = {"BLOCK_ROWS": 128, "BLOCK_COLUMNS": 128, "BLOCK_DEPTH": 64, "num_warps": 8}
# Chips with memory to spare for three stages of the backward tile: 144 KiB on Hopper, 96 on Ampere. NVIDIA's others
# have 99 KiB at most.
LARGE_CHIPS = ((8, 0), (9, 0), (10, 0))


def swiglu_mlp(x: Tensor, weight_in: Tensor, weight_out: Tensor, *, backend: str = "auto") -> Tensor:
    """Apply two linear layers without biases with SwiGLU between them.

    Args:
        x: ``[..., D]``.
        weight_in: ``[2I, D]``, gate before value, in any floating dtype.
        weight_out: ``[O, I]``, in any floating dtype.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``. By itself it takes the kernels in sixteen bits and for
            widths D and I that are multiples of 16; SwiGLU's own beside torch's linear layers elsewhere on a GPU.

    Returns:
        ``[..., O]`` in the dtype of ``x``; products of 16 bits are summed in float32.

    Raises:
        ValueError: if shapes or dtypes do not fit, or the backend cannot run on these tensors.
    """
    _check(x, weight_in, weight_out)
    if use_triton(backend, x, weight_in, weight_out):
        fits = x.dtype != torch.float32 and x.shape[-1] % 16 == 0 and weight_out.shape[1] % 16 == 0
        if fits or backend == "triton":
            return _run(x, weight_in, weight_out)
        return linear(swiglu(linear(x, weight_in, None)), weight_out, None)
    return swiglu_mlp_reference(x, weight_in, weight_out)


def swiglu_mlp_reference(x: Tensor, weight_in: Tensor, weight_out: Tensor) -> Tensor:
    """Define :func:`swiglu_mlp` in plain torch: any device, float64 for float64 input."""
    return linear(swiglu_reference(linear(x, weight_in, None)), weight_out, None)


def _check(x: Tensor, weight_in: Tensor, weight_out: Tensor) -> None:
    if x.ndim == 0 or x.shape[-1] == 0 or weight_in.ndim != 2 or weight_in.shape[1] != x.shape[-1]:
        raise ValueError(f"weight_in must be [2I, D] beside x [..., D], got {list(weight_in.shape)}, {list(x.shape)}")
    if weight_out.ndim != 2 or 0 in weight_out.shape or weight_in.shape[0] != 2 * weight_out.shape[1]:
        raise ValueError(
            f"weight_out must be [O, I] beside weight_in [2I, D], got {list(weight_out.shape)}, {list(weight_in.shape)}"
        )
    for name, tensor in {"x": x, "weight_in": weight_in, "weight_out": weight_out}.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {tensor.dtype}")


@jit
def _place(HIDDEN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    """Return the rows and the hidden columns of a program's tile; neighbours share rows."""
    BLOCKS: tl.constexpr = (HIDDEN + BLOCK_COLUMNS - 1) // BLOCK_COLUMNS
    rows = (tl.program_id(0) // BLOCKS).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    return rows, tl.program_id(0) % BLOCKS * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)


@jit
def _hide(
    x_ptr,
    weight_ptr,
    rows,
    columns,
    num_rows,
    x_stride,
    DIM: tl.constexpr,
    HIDDEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """Compute tiles of gate and value, float32."""
    gate = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    value = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    for start in range(0, DIM, BLOCK_DEPTH):
        depth = start + tl.arange(0, BLOCK_DEPTH)
        inside = (rows[:, None] < num_rows) & (depth[None, :] < DIM)
        x = tl.load(x_ptr + rows[:, None] * x_stride + depth[None, :], mask=inside, other=0.0).to(OPERAND)
        inside = (columns[:, None] < HIDDEN) & (depth[None, :] < DIM)
        at = weight_ptr + columns[:, None] * DIM + depth[None, :]
        weight = tl.load(at, mask=inside, other=0.0).to(OPERAND)
        gate = tl.dot(x, tl.trans(weight), gate, input_precision="ieee")
        weight = tl.load(at + HIDDEN * DIM, mask=inside, other=0.0).to(OPERAND)
        value = tl.dot(x, tl.trans(weight), value, input_precision="ieee")
    return gate, value


@jit
def _forward_kernel(
    x_ptr,  # [R, D]
    weight_ptr,  # [2I, D], contiguous
    y_ptr,  # [R, I]
    num_rows,
    x_stride,
    DIM: tl.constexpr,
    HIDDEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    OPERAND: tl.constexpr,
):
    rows, columns = _place(HIDDEN, BLOCK_ROWS, BLOCK_COLUMNS)
    gate, value = _hide(
        x_ptr,
        weight_ptr,
        rows,
        columns,
        num_rows,
        x_stride,
        DIM,
        HIDDEN,
        BLOCK_ROWS,
        BLOCK_COLUMNS,
        BLOCK_DEPTH,
        OPERAND,
    )
    y = gate * tl.sigmoid(gate) * value
    inside = (rows[:, None] < num_rows) & (columns[None, :] < HIDDEN)
    tl.store(y_ptr + rows[:, None] * HIDDEN + columns[None, :], y.to(y_ptr.dtype.element_ty), mask=inside)


@jit
def _backward_kernel(
    x_ptr,  # [R, D]
    weight_in_ptr,  # [2I, D], contiguous
    grad_ptr,  # [R, O]
    weight_out_ptr,  # [O, I], contiguous
    y_ptr,  # [R, I], the activation once more
    grad_hidden_ptr,  # [R, 2I]
    num_rows,
    x_stride,
    grad_stride,
    DIM: tl.constexpr,
    HIDDEN: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    OPERAND: tl.constexpr,
):
    rows, columns = _place(HIDDEN, BLOCK_ROWS, BLOCK_COLUMNS)
    grad_y = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    for start in range(0, OUT, BLOCK_DEPTH):
        depth = start + tl.arange(0, BLOCK_DEPTH)
        inside = (rows[:, None] < num_rows) & (depth[None, :] < OUT)
        grad = tl.load(grad_ptr + rows[:, None] * grad_stride + depth[None, :], mask=inside, other=0.0).to(OPERAND)
        inside = (columns[None, :] < HIDDEN) & (depth[:, None] < OUT)
        weight = tl.load(weight_out_ptr + depth[:, None] * HIDDEN + columns[None, :], mask=inside, other=0.0)
        grad_y = tl.dot(grad, weight.to(OPERAND), grad_y, input_precision="ieee")
    gate, value = _hide(
        x_ptr,
        weight_in_ptr,
        rows,
        columns,
        num_rows,
        x_stride,
        DIM,
        HIDDEN,
        BLOCK_ROWS,
        BLOCK_COLUMNS,
        BLOCK_DEPTH,
        OPERAND,
    )
    share = tl.sigmoid(gate)
    inside = (rows[:, None] < num_rows) & (columns[None, :] < HIDDEN)
    silu = gate * share
    tl.store(y_ptr + rows[:, None] * HIDDEN + columns[None, :], (silu * value).to(y_ptr.dtype.element_ty), mask=inside)
    at = grad_hidden_ptr + rows[:, None] * (2 * HIDDEN) + columns[None, :]
    grad_gate = grad_y * value * share * (1 + gate * (1 - share))
    tl.store(at, grad_gate.to(grad_hidden_ptr.dtype.element_ty), mask=inside)
    tl.store(at + HIDDEN, (grad_y * silu).to(grad_hidden_ptr.dtype.element_ty), mask=inside)


def _grid(num_rows: int, hidden: int, tile: dict[str, int]) -> tuple[int]:
    return (ceil_div(num_rows, tile["BLOCK_ROWS"]) * ceil_div(hidden, tile["BLOCK_COLUMNS"]),)


@lru_cache
def _stages(device: torch.device, dtype: torch.dtype) -> int:
    """Choose how many loads are in flight: one where operands are wide or the memory for them is small."""
    if device.type != "cuda" or dtype == torch.float32 or torch.version.hip is not None:
        return 1
    return 3 if torch.cuda.get_device_capability(device) in LARGE_CHIPS else 2


def _activate(x: Tensor, weight: Tensor) -> Tensor:
    """Launch the forward kernel: ``[..., D]`` and ``[2I, D]`` of one dtype to ``[..., I]``."""
    hidden = weight.shape[0] // 2
    y = x.new_empty((*x.shape[:-1], hidden))
    x = as_rows(x)
    num_rows, dim = x.shape
    with on_device_of(x):
        launcher(_forward_kernel)[_grid(num_rows, hidden, FORWARD_TILE)](
            x,
            weight.contiguous(),
            y,
            num_rows,
            x.stride(0),
            DIM=dim,
            HIDDEN=hidden,
            OPERAND=operand_of(x),
            **FORWARD_TILE,
            num_stages=_stages(x.device, x.dtype),
        )
    return y


def _forward(x: Tensor, weight_in: Tensor, weight_out: Tensor) -> Tensor:
    return linear(_activate(x, weight_in.to(x.dtype)), weight_out, None)


def _backward(grad: Tensor, x: Tensor, weight_in: Tensor, weight_out: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of what is hidden, ``[..., 2I]``, and the activation, ``[..., I]``."""
    hidden = weight_out.shape[1]
    grad_hidden = x.new_empty((*x.shape[:-1], 2 * hidden))
    y = x.new_empty((*x.shape[:-1], hidden))
    x, grad = as_rows(x), as_rows(grad)
    num_rows, dim = x.shape
    with on_device_of(x):
        launcher(_backward_kernel)[_grid(num_rows, hidden, BACKWARD_TILE)](
            x,
            weight_in.contiguous(),
            grad,
            weight_out.contiguous(),
            y,
            grad_hidden,
            num_rows,
            x.stride(0),
            grad.stride(0),
            DIM=dim,
            HIDDEN=hidden,
            OUT=grad.shape[1],
            OPERAND=operand_of(x),
            **BACKWARD_TILE,
            num_stages=_stages(x.device, x.dtype),
        )
    return grad_hidden, y


_swiglu_mlp = custom_op("swiglu_mlp", _forward, schema="(Tensor x, Tensor weight_in, Tensor weight_out) -> Tensor")
_swiglu_mlp_backward = custom_op(
    "swiglu_mlp_backward",
    _backward,
    schema="(Tensor grad, Tensor x, Tensor weight_in, Tensor weight_out) -> (Tensor, Tensor)",
)


@_swiglu_mlp.register_fake
def _(x: Tensor, weight_in: Tensor, weight_out: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight_out.shape[0]))


@_swiglu_mlp_backward.register_fake
def _(grad: Tensor, x: Tensor, weight_in: Tensor, weight_out: Tensor) -> tuple[Tensor, Tensor]:
    hidden = weight_out.shape[1]
    return x.new_empty((*x.shape[:-1], 2 * hidden)), x.new_empty((*x.shape[:-1], hidden))


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(
    backward: Callable[..., tuple[Tensor, Tensor]], ctx: Any, grad: Tensor
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    x, weight_in, weight_out = ctx.saved_tensors
    weight = weight_in.to(x.dtype)
    grad_hidden, y = backward(grad, x, weight, weight_out.to(x.dtype))
    grad_x = grad_hidden @ weight
    grad_hidden, y = grad_hidden.reshape(-1, grad_hidden.shape[-1]), y.reshape(-1, y.shape[-1])
    grad_in = grad_out = None
    if ctx.needs_input_grad[1]:
        grad_in = (grad_hidden.T @ x.reshape(-1, x.shape[-1])).to(weight_in.dtype)
    if ctx.needs_input_grad[2]:
        grad_out = (grad.reshape(-1, grad.shape[-1]).T @ y).to(weight_out.dtype)
    return grad_x, grad_in, grad_out


_run = two_ways(_swiglu_mlp, _forward, _swiglu_mlp_backward, _backward, _save, _differentiate)


# Two operations for a multiply-add. What is computed a second time does not count.
@register_flop_formula(torch.ops.gatedvision.swiglu_mlp)
def _count_flops(x: torch.Size, weight_in: torch.Size, weight_out: torch.Size, *args: Any, **kwargs: Any) -> int:
    return 2 * x[:-1].numel() * (weight_in.numel() + weight_out.numel())


@register_flop_formula(torch.ops.gatedvision.swiglu_mlp_backward)
def _count_backward_flops(
    grad: torch.Size, x: torch.Size, weight_in: torch.Size, weight_out: torch.Size, *args: Any, **kwargs: Any
) -> int:
    return 2 * x[:-1].numel() * weight_out.numel()
