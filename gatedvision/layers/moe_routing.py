"""Who goes where in a mixture of experts: choices of experts, groups, capacity and slots (arXiv:2106.05974).

All sizes follow from shapes alone, never from values, so that buffers are static.

Shapes: G groups, S places of a group, T tokens, E experts, K choices of a token, Q = E * G * capacity slots.
"""

import math
from typing import NamedTuple

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
        capacity: slots of an expert in a group.
    """

    gates: Tensor
    slot_of_choice: Tensor
    choice_of_slot: Tensor
    experts: Tensor
    capacity: int


class Grouped(NamedTuple):
    """Tokens cut into groups.

    Attributes:
        values: ``[G, S, ...]``, zeros where no token is.
        present: ``[G, S]``, 1 for tokens and 0 for places left over, in the dtype of the values.
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
    num_groups = max(1, -(-num_images // group_images))
    images = -(-num_images // num_groups)
    places = num_groups * images * per_image
    rows = x.flatten(0, 1)
    present = torch.arange(places, device=x.device) < num_images * per_image
    padding = [0, 0] * (rows.ndim - 1) + [0, places - num_images * per_image]
    values = F.pad(rows, padding).view(num_groups, images * per_image, *rows.shape[1:])
    return Grouped(values, present.view(num_groups, images * per_image).to(x.dtype), num_images * per_image)


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
    left, chosen = gates.detach(), []
    for _ in range(num_selected):
        best = left.argmax(-1, keepdim=True)
        chosen.append(best)
        left = left.scatter(-1, best, -1.0)
    return torch.cat(chosen, -1)


def take_turns(experts: Tensor, num_experts: int, present: Tensor, priority: Tensor | None = None) -> Tensor:
    """Number the choices of every expert in the order in which they are served.

    First choices of all tokens come before second choices of any. Within a rank, tokens come in order of decreasing
    priority, ties and all others in the order of the group.

    Args:
        experts: ``[G, S, K]``.
        num_experts: E.
        present: ``[G, S]``; places without tokens are not counted.
        priority: ``[G, S]`` for batch priority routing, or nothing.

    Returns:
        ``[G, S, K]``: how many choices of the same expert came before, which is the slot if there are as many.
    """
    num_choices = experts.shape[-1]
    order = None
    if priority is not None:
        order = priority.detach().masked_fill(present == 0, -1.0).argsort(dim=-1, descending=True, stable=True)
        order = order.unsqueeze(-1).expand(-1, -1, num_choices)
        experts = experts.gather(1, order)
        present = present.gather(1, order[..., 0])
    # [G, K, S, E]: rank by rank.
    taken = F.one_hot(experts.transpose(1, 2), num_experts) * (present != 0)[:, None, :, None]
    turns = taken.flatten(1, 2).cumsum(1).view(taken.shape)
    turns = turns.gather(-1, experts.transpose(1, 2).unsqueeze(-1)).squeeze(-1).transpose(1, 2) - 1
    if order is not None:
        turns = torch.empty_like(turns).scatter(1, order, turns)
    return turns


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
    kept = (turns < capacity) & (turns >= 0) & (grouped.present != 0).unsqueeze(-1)
    slots = torch.where(kept, (experts * num_groups + group) * capacity + turns, num_slots).reshape(-1)
    # Dropped choices meet in one slot more, which is cut off.
    choices = torch.arange(num_groups * size * num_choices, device=experts.device)
    choice_of_slot = torch.full((num_slots + 1,), -1, device=experts.device).scatter(0, slots, choices)[:-1]
    slot_of_choice = torch.where(kept.reshape(-1), slots, -1).view(-1, num_choices)
    tokens = grouped.num_tokens
    return Routing(
        gates.flatten(0, 1)[:tokens],
        slot_of_choice[:tokens],
        choice_of_slot,
        experts.flatten(0, 1)[:tokens],
        capacity,
    )


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
    ranked = gates.detach().masked_fill((grouped.present == 0).unsqueeze(-1), -1.0).transpose(1, 2)
    tokens = ranked.sort(dim=-1, descending=True, stable=True).indices[..., :capacity]
    turns = torch.full_like(ranked, -1, dtype=torch.long)
    turns = turns.scatter(-1, tokens, torch.arange(capacity, device=gates.device).expand(tokens.shape))
    experts = torch.arange(num_experts, device=gates.device).expand(num_groups, size, num_experts)
    return place_choices(gates, experts, turns.transpose(1, 2), grouped, num_experts, capacity), tokens
