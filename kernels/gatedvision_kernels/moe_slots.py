"""Slots of a mixture of experts: which choice of which token gets a place in the fixed buffers.

Tokens come in groups of S, one after the other; the last group may be short. In a group every expert has as many slots
as its capacity, and gives them to the choices in turn: first choices of all tokens before second choices of any, and
within a rank tokens in their order, or those of the highest priority first. With ``turn`` counting, from 0, the choices
of the same expert and group that come before a choice::

    slot = (expert * G + group) * capacity + turn      or -1 where turn >= capacity: the choice is dropped

(V-MoE, arXiv:2106.05974, section 2; priorities are of section 4). Only whole numbers come out, equal on all devices.

Shapes: T tokens in G = ceil(T / S) groups of S, K choices of a token, E experts, Q = E * G * capacity slots.
"""
# pyright: reportArgumentType=false

from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from gatedvision_kernels._device import on_device_of
from gatedvision_kernels._dispatch import INDEX_DTYPES, use_triton
from gatedvision_kernels._operator import custom_op, launcher
from gatedvision_kernels._rows import ceil_div
from gatedvision_kernels._triton import jit, tl

# A group is walked through in blocks; 8 images of 197 tokens are one.
TILE = {"BLOCK": 2048, "num_warps": 8}


def moe_slots(
    experts: Tensor,
    num_experts: int,
    group_size: int,
    capacity: int,
    priority: Optional[Tensor] = None,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Give choices the slots that there are.

    Args:
        experts: ``[T, K]`` integers, 0 to E - 1.
        num_experts: E.
        group_size: S, tokens of a group.
        capacity: slots of an expert in a group.
        priority: ``[T]``, in any floating dtype: tokens of a group come in order of decreasing priority, ties in their
            own; or nothing.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        ``slot_of_choice`` ``[T, K]``, -1 for dropped choices, and ``choice_of_slot`` ``[Q]``, token * K + rank, -1 for
        empty slots; int64 both, and each the inverse of the other.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit, or the backend cannot run on these tensors.
    """
    if experts.ndim != 2 or experts.shape[1] == 0 or experts.dtype not in INDEX_DTYPES:
        raise ValueError(f"experts must be int32 or int64 [T, K], K > 0; got {experts.dtype} {tuple(experts.shape)}")
    if num_experts < 1 or capacity < 0 or group_size < (1 if experts.shape[0] > 0 else 0):
        raise ValueError(
            f"num_experts and group_size must be at least 1 and capacity at least 0, got {num_experts}, {group_size} "
            f"and {capacity}"
        )
    if priority is not None:
        if priority.shape != experts.shape[:1] or not priority.is_floating_point():
            raise ValueError(
                f"priority must be floating point [{experts.shape[0]}], one of each token, got {priority.dtype} "
                f"{tuple(priority.shape)}"
            )
        if priority.device != experts.device:
            raise ValueError(f"experts lie on {experts.device}, priority on {priority.device}")
        priority = priority.detach()
    if not use_triton(backend, *(() if priority is None else (priority,)), indices=(experts,)):
        return moe_slots_reference(experts, num_experts, group_size, capacity, priority)
    run = _moe_slots if torch.compiler.is_compiling() else _forward
    return run(experts, num_experts, group_size, capacity, priority)


def moe_slots_reference(
    experts: Tensor, num_experts: int, group_size: int, capacity: int, priority: Optional[Tensor] = None
) -> tuple[Tensor, Tensor]:
    """Define :func:`moe_slots` in plain torch, on any device."""
    num_tokens, num_choices = experts.shape
    num_groups = ceil_div(num_tokens, max(group_size, 1))
    missing = num_groups * group_size - num_tokens
    experts = experts.long()
    present: Optional[Tensor] = None
    if missing > 0:
        experts = F.pad(experts, [0, 0, 0, missing])
        present = (torch.arange(experts.shape[0], device=experts.device) < num_tokens).view(num_groups, group_size)
    if priority is not None:
        priority = F.pad(priority, [0, missing]).view(num_groups, group_size)
    experts = experts.reshape(num_groups, group_size, num_choices)
    turns = take_turns(experts, num_experts, present, priority)
    slot_of_choice, choice_of_slot = place_choices(experts, turns, num_experts, capacity, present)
    return slot_of_choice[:num_tokens], choice_of_slot


def take_turns(
    experts: Tensor, num_experts: int, present: Optional[Tensor] = None, priority: Optional[Tensor] = None
) -> Tensor:
    """Number the choices of every expert in the order in which they are served.

    First choices of all tokens come before second choices of any. Within a rank, tokens come in order of decreasing
    priority, ties and all others in the order of the group.

    Args:
        experts: ``[G, S, K]``.
        num_experts: E.
        present: ``[G, S]`` bool; places without tokens are not counted. Nothing where each has one.
        priority: ``[G, S]`` for batch priority routing, or nothing.

    Returns:
        ``[G, S, K]``: how many choices of the same expert came before, which is the slot if there are as many.
    """
    # [G, K, S]: rank by rank.
    served = experts.transpose(1, 2)
    order: Optional[Tensor] = None
    if priority is not None:
        first = priority.detach().argsort(dim=-1, descending=True, stable=True)
        present = None if present is None else present.gather(1, first)
        order = first.unsqueeze(1).expand(served.shape)
        served = served.gather(2, order)
    served = served.contiguous()
    # [G, E, K, S]. Along the last axis GPUs sum in parallel, along others element after element.
    taken = served.unsqueeze(1) == torch.arange(num_experts, device=experts.device)[:, None, None]
    if present is not None:
        taken = taken & present[:, None, None]
    turns = taken.flatten(2).cumsum(2).view(taken.shape)
    turns = turns.gather(1, served.unsqueeze(1)).squeeze(1) - 1
    if order is not None:
        turns = torch.empty_like(turns).scatter_(2, order, turns)
    return turns.transpose(1, 2)


def place_choices(
    experts: Tensor, turns: Tensor, num_experts: int, capacity: int, present: Optional[Tensor] = None
) -> tuple[Tensor, Tensor]:
    """Give choices that know their turn the slots that there are.

    Args:
        experts: ``[G, S, K]``.
        turns: ``[G, S, K]``, from 0; from ``capacity`` on choices are dropped.
        num_experts: E.
        capacity: slots of an expert in a group.
        present: ``[G, S]`` bool; places without tokens get no slots. Nothing where each has one.

    Returns:
        ``slot_of_choice`` ``[G * S, K]`` and ``choice_of_slot`` ``[Q]``.
    """
    num_groups, size, num_choices = experts.shape
    num_slots = num_experts * num_groups * capacity
    group = torch.arange(num_groups, device=experts.device)[:, None, None]
    kept = turns < capacity
    if present is not None:
        kept = kept & present.unsqueeze(-1)
    slots = torch.where(kept, (experts * num_groups + group) * capacity + turns, -1).reshape(-1)
    # Dropped choices meet in a slot before the first, which is cut off.
    choices = torch.arange(num_groups * size * num_choices, device=experts.device)
    choice_of_slot = torch.full((1 + num_slots,), -1, dtype=torch.int64, device=experts.device)
    choice_of_slot = choice_of_slot.scatter_(0, 1 + slots, choices)[1:]
    return slots.view(-1, num_choices), choice_of_slot


@jit
def _slots_kernel(
    experts_ptr,  # [T, K]
    order_ptr,  # [G, S], places of the group as they are served; or None
    slot_ptr,  # [T, K]
    choice_ptr,  # [Q]
    num_tokens,
    num_choices,
    group_size,
    capacity,
    BLOCK: tl.constexpr,
):
    """Serve one expert in one group. No other program has its choices, nor its slots."""
    group = tl.program_id(0).to(tl.int64)
    expert = tl.program_id(1)
    first_slot = (expert * tl.num_programs(0) + group) * capacity
    count = 0
    for rank in range(num_choices):
        for start in range(0, group_size, BLOCK):
            places = start + tl.arange(0, BLOCK).to(tl.int64)
            inside = places < group_size
            if order_ptr is not None:
                places = tl.load(order_ptr + group * group_size + places, mask=inside, other=0)
            tokens = group * group_size + places
            choices = tokens * num_choices + rank
            mine = tl.load(experts_ptr + choices, mask=inside & (tokens < num_tokens), other=-1) == expert
            turns = count + tl.cumsum(mine.to(tl.int32), 0) - 1
            kept = mine & (turns < capacity)
            slots = first_slot + turns
            tl.store(slot_ptr + choices, tl.where(kept, slots, -1), mask=mine)
            tl.store(choice_ptr + slots, choices, mask=kept)
            count += tl.sum(mine.to(tl.int32), 0)
    for start in range(count, capacity, BLOCK):
        turns = start + tl.arange(0, BLOCK)
        empty = tl.full((BLOCK,), -1, dtype=tl.int64)
        tl.store(choice_ptr + first_slot + turns, empty, mask=turns < capacity)


def _forward(
    experts: Tensor, num_experts: int, group_size: int, capacity: int, priority: Optional[Tensor]
) -> tuple[Tensor, Tensor]:
    experts = experts.contiguous()
    num_tokens, num_choices = experts.shape
    num_groups = ceil_div(num_tokens, max(group_size, 1))
    order = None
    if priority is not None:
        missing = num_groups * group_size - num_tokens
        padded = F.pad(priority, [0, missing]) if missing > 0 else priority
        order = padded.reshape(num_groups, group_size).argsort(dim=-1, descending=True, stable=True)
    slot_of_choice = experts.new_empty(experts.shape, dtype=torch.int64)
    choice_of_slot = experts.new_empty((num_experts * num_groups * capacity,), dtype=torch.int64)
    with on_device_of(experts):
        launcher(_slots_kernel)[(num_groups, num_experts)](
            experts, order, slot_of_choice, choice_of_slot, num_tokens, num_choices, group_size, capacity, **TILE
        )
    return slot_of_choice, choice_of_slot


SCHEMA = "Tensor experts, int num_experts, SymInt group_size, SymInt capacity, Tensor? priority"
_moe_slots = custom_op("moe_slots", _forward, schema=f"({SCHEMA}) -> (Tensor, Tensor)")


@_moe_slots.register_fake
def _(
    experts: Tensor, num_experts: int, group_size: int, capacity: int, priority: Optional[Tensor]
) -> tuple[Tensor, Tensor]:
    num_groups = ceil_div(experts.shape[0], max(group_size, 1))
    slot_of_choice = experts.new_empty(experts.shape, dtype=torch.int64)
    return slot_of_choice, experts.new_empty((num_experts * num_groups * capacity,), dtype=torch.int64)
