"""Who goes where in a mixture of experts: groups of tokens, their capacity, and slots (arXiv:2106.05974).

All sizes follow from shapes alone, never from values, so that buffers are static; where nothing is dropped, only the
shares of experts in a buffer of all choices follow from values. Empty slots may be left out where sizes need not be
static.

Shapes: G groups, S places of a group, T tokens, E experts, K choices of a token, Q = E * G * capacity slots.
"""

import math
from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from gatedvision_kernels.moe_slots import place_choices

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

    def without_empty_slots(self, num_experts: int) -> "Routing":
        """Leave out the slots that no choice has; the others keep their order, and experts get their ``ends``.

        Args:
            num_experts: E, with equally many slots.

        Returns:
            A routing whose sizes follow from values, or the same where every slot is taken.
        """
        taken = self.choice_of_slot >= 0
        if taken.all():
            return self
        places = taken.cumsum(0) - 1
        slot_of_choice = torch.where(self.slot_of_choice < 0, -1, places[self.slot_of_choice])
        ends = taken.view(num_experts, -1).sum(1).cumsum(0, dtype=torch.int32)
        return self._replace(slot_of_choice=slot_of_choice, choice_of_slot=self.choice_of_slot[taken], ends=ends)


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


def shape_of_groups(num_images: int, group_images: int) -> tuple[int, int]:
    """Return how many groups a batch makes, and of how many images each.

    A batch of B images makes G = ceil(B / group_images) groups of ceil(B / G) images: full groups where they divide
    the batch, and else as equal ones as there can be. What is missing in the last group, less than G images, are
    places without tokens. So a batch of one image is a group of one, whose capacity is for one image.
    """
    # Of no images, too, one group is made.
    num_groups = 1 if num_images <= group_images else -(-num_images // group_images)
    return num_groups, -(-num_images // num_groups)


def pad_to_groups(x: Tensor, group_images: int) -> Tensor:
    """Bring ``[B, P, ...]`` to groups ``[G, S, ...]``, zeros where no token is; see :func:`cut_into_groups`."""
    num_images, per_image = x.shape[:2]
    num_groups, images = shape_of_groups(num_images, group_images)
    rows, left_over = x.flatten(0, 1), (num_groups * images - num_images) * per_image
    if left_over > 0:
        rows = F.pad(rows, [0, 0] * (rows.ndim - 1) + [0, left_over])
    return rows.reshape(num_groups, images * per_image, *rows.shape[1:])


def cut_into_groups(x: Tensor, group_images: int) -> Grouped:
    """Cut images into groups that are routed each on its own, as :func:`shape_of_groups` says.

    Places without tokens take no slots and do not count in losses.

    Args:
        x: ``[B, P, ...]``, P tokens of each image.
        group_images: images of a full group.
    """
    present = pad_to_groups(torch.ones(x.shape[:2], dtype=torch.bool, device=x.device), group_images)
    return Grouped(pad_to_groups(x, group_images), present, x.shape[0] * x.shape[1])


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


def place_all(gates: Tensor, experts: Tensor, num_experts: int, group_size: int) -> Routing:
    """Give every choice a slot: T * K slots, ordered by expert, then token.

    Args:
        gates: ``[T, K]``.
        experts: ``[T, K]``.
        num_experts: E.
        group_size: tokens of a group, all of which an expert may get.
    """
    expert_of_slot, choice_of_slot = experts.flatten().sort(stable=True)
    slots = torch.arange(len(choice_of_slot), device=experts.device)
    slot_of_choice = torch.empty_like(slots).scatter_(0, choice_of_slot, slots).view_as(experts)
    each = torch.arange(num_experts, device=experts.device)
    ends = torch.searchsorted(expert_of_slot, each, right=True, out_int32=True)
    return Routing(gates, slot_of_choice, choice_of_slot, experts, group_size, ends)


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
    slots, choice_of_slot = place_choices(experts, turns.transpose(1, 2), num_experts, capacity, grouped.present)
    gates, slots, experts = (x[: grouped.num_tokens] for x in (gates.flatten(0, 1), slots, experts.flatten(0, 1)))
    return Routing(gates, slots, choice_of_slot, experts, capacity), tokens
