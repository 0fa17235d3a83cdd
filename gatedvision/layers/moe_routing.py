"""Who goes where in a mixture of experts: choices of experts, groups, capacity and slots (arXiv:2106.05974).

All sizes follow from shapes alone, never from values, so that buffers are static; where nothing is dropped, only the
shares of experts in a buffer of all choices follow from values.

Shapes: G groups, S places of a group, T tokens, E experts, K choices of a token, Q = E * G * capacity slots.
"""

import math
from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

ROUNDINGS = ("ceil", "round")
PRIORITIES = ("vanilla", "batch")


class Routing(NamedTuple):
    """Where tokens go.

    Attributes:
        gates: ``[T, K]``, weight of each choice, with gradient.
        slot_of_choice: ``[T, K]``, slot of each choice, -1 for dropped ones.
        choice_of_slot: ``[Q]``, token * K + rank of the choice in each slot, -1 for empty ones. Slots are ordered by
            expert, then group.
        experts: ``[T, K]``, the expert of each choice.
        capacity: most tokens of a group that an expert may get.
        ends: ``[E]`` int32, the slot behind those of each expert; None where all have equally many.
    """

    gates: Tensor
    slot_of_choice: Tensor
    choice_of_slot: Tensor
    experts: Tensor
    capacity: int
    ends: Optional[Tensor] = None


class Grouped(NamedTuple):
    """Tokens cut into groups.

    Attributes:
        values: ``[G, S, ...]``, zeros where no token is.
        present: ``[G, S]`` bool, true for tokens and false for places left over.
        num_tokens: T.
    """

    values: Tensor
    present: Tensor
    num_tokens: int


def cut_into_groups(x: Tensor, group_images: int) -> Grouped:
    """Cut images into groups that are routed each on its own.

    A batch of B images makes G = ceil(B / group_images) groups of ceil(B / G) images: full groups where they divide
    the batch, and else as equal ones as there can be. What is missing in the last group, less than G images, are
    places without tokens: they take no slots and do not count in losses. So a batch of one image is a group of one,
    whose capacity is for one image.

    Args:
        x: ``[B, P, ...]``, P tokens of each image.
        group_images: images of a full group.
    """
    num_images, per_image = x.shape[:2]
    # Of no images, too, one group is made.
    num_groups = 1 if num_images <= group_images else -(-num_images // group_images)
    images = -(-num_images // num_groups)
    rows, left_over = x.flatten(0, 1), (num_groups * images - num_images) * per_image
    present = torch.ones(num_images * per_image, dtype=torch.bool, device=x.device)
    if left_over > 0:
        rows, present = F.pad(rows, [0, 0] * (rows.ndim - 1) + [0, left_over]), F.pad(present, [0, left_over])
    group = (num_groups, images * per_image)
    return Grouped(rows.reshape(*group, *rows.shape[1:]), present.view(group), num_images * per_image)


def capacity_of(
    choices: int, capacity_factor: float, num_experts: int, rounding: str = "ceil", multiple_of: int = 4
) -> int:
    """Return the slots of an expert in a group.

    Args:
        choices: choices of all tokens of the group.
        capacity_factor: slots of all experts divided by choices.
        num_experts: experts that share them.
        rounding: ``"ceil"`` or ``"round"`` (halves to even).
        multiple_of: raise the result to the next multiple of it.

    Raises:
        ValueError: if there is no slot.
    """
    exact = choices * capacity_factor / num_experts
    slots = math.ceil(exact) if rounding == "ceil" else round(exact)
    slots = -(-slots // multiple_of) * multiple_of
    # Nothing to place needs no slot.
    if slots < 1 and choices > 0:
        raise ValueError(
            f"capacity_factor {capacity_factor} leaves no slot to an expert: {choices} choices among {num_experts} "
            f"experts make {exact:.3g} slots each; raise capacity_factor or the images of a group"
        )
    return slots


def choose_experts(gates: Tensor, num_selected: int) -> Tensor:
    """Return the experts with the largest gates, ``[..., K]`` of ``[..., E]``, largest first, ties to the lower index.

    torch.topk promises nothing about ties; the few choices there are cost less one by one than a stable sort.
    """
    left = gates.detach()
    chosen = [left.argmax(-1, keepdim=True)]
    while len(chosen) < num_selected:
        left = left.scatter(-1, chosen[-1], -1.0)
        chosen.append(left.argmax(-1, keepdim=True))
    return torch.cat(chosen, -1)


def take_turns(experts: Tensor, num_experts: int, present: Tensor, priority: Tensor | None = None) -> Tensor:
    """Number the choices of every expert in the order in which they are served.

    First choices of all tokens come before second choices of any. Within a rank, tokens come in order of decreasing
    priority, ties and all others in the order of the group.

    Args:
        experts: ``[G, S, K]``.
        num_experts: E.
        present: ``[G, S]`` bool; places without tokens are not counted.
        priority: ``[G, S]`` for batch priority routing, or nothing.

    Returns:
        ``[G, S, K]``: how many choices of the same expert came before, which is the slot if there are as many.
    """
    # [G, K, S]: rank by rank.
    served, order = experts.transpose(1, 2), None
    if priority is not None:
        order = priority.detach().argsort(dim=-1, descending=True, stable=True)
        present = present.gather(1, order)
        order = order.unsqueeze(1).expand(served.shape)
        served = served.gather(2, order)
    served = served.contiguous()
    # [G, E, K, S]. Along the last axis GPUs sum in parallel, along others element after element.
    taken = served.unsqueeze(1) == torch.arange(num_experts, device=experts.device)[:, None, None]
    turns = (taken & present[:, None, None]).flatten(2).cumsum(2).view(taken.shape)
    turns = turns.gather(1, served.unsqueeze(1)).squeeze(1) - 1
    if order is not None:
        turns = torch.empty_like(turns).scatter_(2, order, turns)
    return turns.transpose(1, 2)


def place_choices(
    gates: Tensor, experts: Tensor, turns: Tensor, grouped: Grouped, num_experts: int, capacity: int
) -> Routing:
    """Give choices the slots that there are.

    Args:
        gates: ``[G, S, K]``.
        experts: ``[G, S, K]``.
        turns: ``[G, S, K]``, from 0; from ``capacity`` on choices are dropped.
        grouped: the tokens.
        num_experts: E.
        capacity: slots of an expert in a group.
    """
    num_groups, size, num_choices = experts.shape
    num_slots = num_experts * num_groups * capacity
    group = torch.arange(num_groups, device=experts.device)[:, None, None]
    kept = (turns < capacity) & grouped.present.unsqueeze(-1)
    slots = torch.where(kept, (experts * num_groups + group) * capacity + turns, -1).reshape(-1)
    # Dropped choices meet in a slot before the first, which is cut off.
    choices = torch.arange(num_groups * size * num_choices, device=experts.device)
    choice_of_slot = torch.full((1 + num_slots,), -1, device=experts.device).scatter_(0, 1 + slots, choices)[1:]
    tokens = grouped.num_tokens
    return Routing(
        gates.flatten(0, 1)[:tokens],
        slots.view(-1, num_choices)[:tokens],
        choice_of_slot,
        experts.flatten(0, 1)[:tokens],
        capacity,
    )


def place_all(gates: Tensor, experts: Tensor, grouped: Grouped, num_experts: int) -> Routing:
    """Give every choice a slot: T * K slots, ordered by expert, then token.

    Args:
        gates: ``[G, S, K]``.
        experts: ``[G, S, K]``.
        grouped: the tokens.
        num_experts: E.
    """
    size, tokens = experts.shape[1], grouped.num_tokens
    experts = experts.flatten(0, 1)[:tokens]
    expert_of_slot, choice_of_slot = experts.flatten().sort(stable=True)
    slots = torch.arange(len(choice_of_slot), device=experts.device)
    slot_of_choice = torch.empty_like(slots).scatter_(0, choice_of_slot, slots).view_as(experts)
    each = torch.arange(num_experts, device=experts.device)
    ends = torch.searchsorted(expert_of_slot, each, right=True, out_int32=True)
    return Routing(gates.flatten(0, 1)[:tokens], slot_of_choice, choice_of_slot, experts, size, ends)


def choose_tokens(gates: Tensor, grouped: Grouped, capacity: int) -> tuple[Routing, Tensor]:
    """Let every expert choose the tokens with the largest gates, ties to the earlier token (arXiv:2202.09368).

    Args:
        gates: ``[G, S, E]``.
        grouped: the tokens.
        capacity: tokens that an expert takes of a group, at most S.

    Returns:
        The routing, with one choice of a token for each expert, and the tokens ``[G, E, capacity]`` that each expert
        took, largest gate first.
    """
    num_groups, size, num_experts = gates.shape
    ranked = torch.where(grouped.present.unsqueeze(-1), gates.detach(), -1.0).transpose(1, 2)
    tokens = ranked.sort(dim=-1, descending=True, stable=True).indices[..., :capacity]
    turns = torch.full_like(ranked, capacity, dtype=torch.long)
    turns = turns.scatter_(-1, tokens, torch.arange(capacity, device=gates.device).expand(tokens.shape))
    experts = torch.arange(num_experts, device=gates.device).expand(num_groups, size, num_experts)
    return place_choices(gates, experts, turns.transpose(1, 2), grouped, num_experts, capacity), tokens
