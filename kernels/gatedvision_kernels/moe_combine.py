"""Combination of a mixture of experts: what the experts made of a token, weighted by its gates.

With slot q(t, k) of token t's choice k, over the choices that got one::

    y[t] = sum over k of gates[t, k] buffers[q(t, k)]

A dropped choice adds nothing and the others are not scaled up; a token without a slot gets 0 (V-MoE,
arXiv:2106.05974, section 2).

Shapes: T tokens (all leading axes together), K choices of a token, Q slots of all experts, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gatedvision_kernels._dispatch import use_triton
from gatedvision_kernels._operator import custom_op
from gatedvision_kernels._slot_rows import check_slots, products_by_choice, rows_by_slot, rows_by_token
from gatedvision_kernels._two_ways import two_ways


def moe_combine(
    buffers: Tensor, gates: Tensor, choice_of_slot: Tensor, slot_of_choice: Tensor, *, backend: str = "auto"
) -> Tensor:
    """Sum the slots of every token, weighted.

    Args:
        buffers: ``[Q, C]``; empty slots may hold anything finite.
        gates: ``[..., K]``, in any floating dtype.
        choice_of_slot: ``[Q]`` integers: the choice in each slot, token * K + rank, negative for empty slots.
        slot_of_choice: integers in the shape of ``gates``: the slot of each choice, negative for dropped ones; the
            inverse of ``choice_of_slot``.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        ``[..., C]`` in the dtype of ``buffers``, summed in float32 or wider.

    Raises:
        ValueError: if shapes or dtypes do not fit, or the backend cannot run on these tensors.
    """
    check_slots(choice_of_slot, slot_of_choice, buffers.device)
    if buffers.ndim != 2 or buffers.shape[1] == 0 or buffers.shape[0] != choice_of_slot.shape[0]:
        raise ValueError(
            f"buffers must be [Q, C], C > 0, and choice_of_slot [Q]; got {tuple(buffers.shape)} and "
            f"{tuple(choice_of_slot.shape)}"
        )
    if gates.shape != slot_of_choice.shape:
        raise ValueError(
            f"gates and slot_of_choice must share one shape [..., K], got {tuple(gates.shape)} and "
            f"{tuple(slot_of_choice.shape)}"
        )
    if not buffers.is_floating_point() or not gates.is_floating_point():
        raise ValueError(f"buffers and gates must be floating point, got {buffers.dtype} and {gates.dtype}")
    if use_triton(backend, buffers, gates):
        return _run(buffers, gates, choice_of_slot, slot_of_choice)
    return moe_combine_reference(buffers, gates, choice_of_slot, slot_of_choice)


def moe_combine_reference(buffers: Tensor, gates: Tensor, choice_of_slot: Tensor, slot_of_choice: Tensor) -> Tensor:
    """Define :func:`moe_combine` in plain torch: any device, float64 for float64 input."""
    dtype = torch.promote_types(torch.promote_types(buffers.dtype, gates.dtype), torch.float32)
    num_choices = gates.shape[-1]
    # Empty slots take a gate of zero, and go to a token behind the last one.
    weights = torch.cat([gates.to(dtype).reshape(-1), gates.new_zeros(1, dtype=dtype)])
    num_tokens = (weights.shape[0] - 1) // num_choices
    choices = torch.where(choice_of_slot < 0, weights.shape[0] - 1, choice_of_slot)
    weighted = weights.index_select(0, choices).unsqueeze(1) * buffers
    y = weighted.new_zeros((num_tokens + 1, buffers.shape[1]))
    y = y.index_add(0, torch.div(choices, num_choices, rounding_mode="floor"), weighted)[:num_tokens]
    return y.view(gates.shape[:-1] + (buffers.shape[1],)).to(buffers.dtype)


def _forward(buffers: Tensor, gates: Tensor, choice_of_slot: Tensor, slot_of_choice: Tensor) -> Tensor:
    num_choices = gates.shape[-1]
    y = rows_by_token(buffers, slot_of_choice.reshape(-1, num_choices), gates.reshape(-1, num_choices))
    return y.view(*gates.shape[:-1], buffers.shape[1])


def _backward(
    grad_y: Tensor, buffers: Tensor, gates: Tensor, choice_of_slot: Tensor, slot_of_choice: Tensor
) -> tuple[Tensor, Tensor]:
    num_choices = gates.shape[-1]
    grad_y = grad_y.reshape(-1, grad_y.shape[-1])
    rows = gates.reshape(-1, num_choices)
    grad_buffers = rows_by_slot(grad_y, choice_of_slot, num_choices, rows)
    grad_gates = products_by_choice(grad_y, buffers, slot_of_choice.reshape(-1, num_choices), gates.dtype)
    return grad_buffers, grad_gates.view(gates.shape)


SCHEMA = "Tensor buffers, Tensor gates, Tensor choice_of_slot, Tensor slot_of_choice"
_moe_combine = custom_op("moe_combine", _forward, schema=f"({SCHEMA}) -> Tensor")
_moe_combine_backward = custom_op(
    "moe_combine_backward", _backward, schema=f"(Tensor grad_y, {SCHEMA}) -> (Tensor, Tensor)"
)


@_moe_combine.register_fake
def _(buffers: Tensor, gates: Tensor, choice_of_slot: Tensor, slot_of_choice: Tensor) -> Tensor:
    return buffers.new_empty((*gates.shape[:-1], buffers.shape[1]))


@_moe_combine_backward.register_fake
def _(
    grad_y: Tensor, buffers: Tensor, gates: Tensor, choice_of_slot: Tensor, slot_of_choice: Tensor
) -> tuple[Tensor, Tensor]:
    return buffers.new_empty(buffers.shape), gates.new_empty(gates.shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(
    backward: Callable[..., tuple[Tensor, Tensor]], ctx: Any, grad_y: Tensor
) -> tuple[Tensor, Tensor, None, None]:
    return *backward(grad_y, *ctx.saved_tensors), None, None


_run = two_ways(_moe_combine, _forward, _moe_combine_backward, _backward, _save, _differentiate)
