"""Routers of a mixture of experts: tokens choose experts, experts choose tokens, or every slot mixes all tokens.

All compute in float32, whatever autocast says, and in float64 for float64 input. Noise exists in training only.
"""

import math
from typing import Any, Optional

import torch
import torch.nn.functional as F
from timm.layers import lecun_normal_
from torch import Tensor, nn

from gatedvision.layers._autocast import without_autocast
from gatedvision.layers.moe_losses import gshard_loss, importance_loss, load_loss
from gatedvision.layers.moe_routing import (
    PRIORITIES,
    ROUNDINGS,
    Grouped,
    Routing,
    capacity_of,
    choose_tokens,
    cut_into_groups,
    pad_to_groups,
    place_all,
    shape_of_groups,
)
from gatedvision_kernels import moe_slots, top_k_gates, wide_linear

MODES = ("both", "train", "eval")


def _quotient(ratio: tuple[int, int]) -> float:
    numerator, denominator = ratio
    return numerator / denominator if denominator else math.inf


class GroupRouter(nn.Module):
    """What routers with a capacity share: logits in float32, noise, and the dials of training and evaluation.

    Args:
        dim: channels of a token.
        num_experts: experts, of all members together.
        capacity_factor: slots of all experts divided by choices, in training.
        eval_capacity_factor: the same in evaluation; that of training by default.
        group_images: images of a full group.
        rounding: of the capacity, ``"ceil"`` or ``"round"``.
        multiple_of: the capacity is raised to a multiple of it.
        noise_std: deviation of the noise on the logits, divided by the experts of a member.
        num_members: members of an ensemble, each with its share of the experts.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if an argument is out of range.
    """

    # An infinite capacity factor gives slots to all choices, in no fixed buffers.
    may_drop_nothing = False

    def __init__(
        self,
        dim: int,
        num_experts: int,
        capacity_factor: float,
        eval_capacity_factor: Optional[float],
        group_images: int,
        rounding: str,
        multiple_of: int,
        noise_std: float,
        num_members: int = 1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if rounding not in ROUNDINGS:
            raise ValueError(f"rounding must be one of {', '.join(ROUNDINGS)}, got {rounding!r}")
        if min(num_experts, group_images, multiple_of, num_members) < 1:
            raise ValueError(
                f"num_experts, group_images, multiple_of and num_members must be at least 1, got {num_experts}, "
                f"{group_images}, {multiple_of} and {num_members}"
            )
        if num_experts % num_members:
            raise ValueError(f"{num_experts} experts cannot be shared by {num_members} members equally")
        if noise_std < 0:
            raise ValueError(f"noise_std must be at least 0, got {noise_std}")
        self.num_experts = num_experts
        self.num_members = num_members
        self.set_capacity(capacity_factor)
        if eval_capacity_factor is not None:
            self.set_capacity(eval_capacity_factor, "eval")
        self.group_images = group_images
        self.rounding = rounding
        self.multiple_of = multiple_of
        self.noise_std = noise_std / (num_experts // num_members)
        self.weight = nn.Parameter(torch.empty(num_experts, dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight from a truncated normal of deviation ``dim ** -0.5``."""
        lecun_normal_(self.weight)

    def set_capacity(self, capacity_factor: float, mode: str = "both") -> None:
        """Change the capacity factor of ``"train"``, ``"eval"`` or ``"both"``.

        Raises:
            ValueError: if it leaves no slot, or for another mode.
        """
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if not capacity_factor > 0:
            raise ValueError(f"capacity_factor must be above 0, got {capacity_factor}: no expert had a slot")
        if math.isinf(capacity_factor) and not self.may_drop_nothing:
            raise ValueError(f"capacity_factor must be finite where experts choose tokens, got {capacity_factor}")
        # Whole numbers, because to a compiler a float that has changed is any number, and sizes follow from this one.
        ratio = (1, 0) if math.isinf(capacity_factor) else float(capacity_factor).as_integer_ratio()
        if mode != "eval":
            self._ratio = ratio
        if mode != "train":
            self._eval_ratio = ratio

    @property
    def capacity_factor(self) -> float:
        """Slots of all experts divided by choices, in training; :meth:`set_capacity` changes it."""
        return _quotient(self._ratio)

    @property
    def eval_capacity_factor(self) -> float:
        """The same in evaluation."""
        return _quotient(self._eval_ratio)

    def logits(self, x: Tensor) -> Tensor:
        """Score the experts of its member for every token: ``[B, P, E / M]`` of ``[B, P, C]``, member fastest in P."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        if self.num_members == 1 and x.dtype == self.weight.dtype != dtype:
            # As exact as with copies in float32, which cost more than the product.
            return wide_linear(x, self.weight)
        with without_autocast(x):
            x, weight = x.to(dtype), self.weight.to(dtype)
            if self.num_members == 1:
                return F.linear(x, weight)
            members = x.unflatten(1, (-1, self.num_members))
            return torch.einsum("bnmc,mec->bnme", members, weight.unflatten(0, (self.num_members, -1))).flatten(1, 2)

    def draw_noise(self, logits: Tensor) -> Optional[Tensor]:
        """Draw the noise of training; in evaluation there is none."""
        if not self.training or self.noise_std == 0:
            return None
        return torch.randn_like(logits) * self.noise_std

    def factor_in_use(self) -> float:
        """Return the capacity factor of training or evaluation, as the router is."""
        return self.capacity_factor if self.training else self.eval_capacity_factor

    def capacity(self, choices: int) -> int:
        """Return the slots of an expert in a group of so many choices, in training or evaluation as the router is."""
        return capacity_of(choices, self.factor_in_use(), self.num_experts, self.rounding, self.multiple_of)

    def extra_repr(self) -> str:
        """Name the dials."""
        return (
            f"num_experts={self.num_experts}, capacity_factor={self.capacity_factor}, "
            f"eval_capacity_factor={self.eval_capacity_factor}, group_images={self.group_images}"
        )


class TopKRouter(GroupRouter):
    """Every token chooses its K best experts, by a softmax over all of them (arXiv:2106.05974, section 2).

    The gates of the chosen are not scaled up. With several members it is the router of an ensemble: the tokens of
    member m, every M-th of a group, choose among the m-th share of the experts only (arXiv:2110.03360, section 3).

    Args:
        dim: channels of a token.
        num_experts: experts, of all members together.
        num_selected: K, experts of a token.
        capacity_factor: slots of all experts divided by choices, in training; infinite to drop nothing.
        eval_capacity_factor: the same in evaluation; that of training by default.
        priority: who gets the slots of a group in training: ``"vanilla"``, tokens in order, or ``"batch"``, tokens
            with the largest gate first.
        eval_priority: the same in evaluation; that of training by default.
        group_images: images of a full group; see :func:`~gatedvision.layers.moe_routing.cut_into_groups`.
        rounding: of the capacity, ``"ceil"`` or ``"round"``.
        multiple_of: the capacity is raised to a multiple of it.
        noise_std: deviation of the noise on the logits in training, divided by the experts of a member.
        num_members: members of the ensemble.
        importance_weight: of the importance loss.
        load_weight: of the load loss, which exists only with noise.
        gshard_weight: of the GShard loss.
        balance: over what experts are balanced: each ``"group"``, or the whole ``"batch"`` of all processes.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if an argument is out of range.
    """

    may_drop_nothing = True

    def __init__(
        self,
        dim: int,
        num_experts: int,
        num_selected: int = 2,
        capacity_factor: float = 1.05,
        eval_capacity_factor: Optional[float] = None,
        priority: str = "vanilla",
        eval_priority: Optional[str] = None,
        group_images: int = 8,
        rounding: str = "ceil",
        multiple_of: int = 4,
        noise_std: float = 1.0,
        num_members: int = 1,
        importance_weight: float = 0.005,
        load_weight: float = 0.005,
        gshard_weight: float = 0.0,
        balance: str = "group",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            dim,
            num_experts,
            capacity_factor,
            eval_capacity_factor,
            group_images,
            rounding,
            multiple_of,
            noise_std,
            num_members,
            device,
            dtype,
        )
        self.set_num_selected(num_selected)
        self.set_priority(priority)
        if eval_priority is not None:
            self.set_priority(eval_priority, "eval")
        if balance not in ("group", "batch"):
            raise ValueError(f"balance must be 'group' or 'batch', got {balance!r}")
        if load_weight and noise_std and num_experts // num_members == 2:
            raise ValueError(
                f"the load loss does not work with 2 experts a member, got load_weight {load_weight}; set it to 0 and "
                f"gshard_weight to 0.01"
            )
        self.balance = balance
        self.loss_weights = {"importance": importance_weight, "load": load_weight, "gshard": gshard_weight}

    def set_num_selected(self, num_selected: int) -> None:
        """Change K.

        Raises:
            ValueError: if there are fewer experts.
        """
        experts = self.num_experts // self.num_members
        if not 1 <= num_selected <= experts:
            among = "" if self.num_members == 1 else f" of each of {self.num_members} members"
            raise ValueError(f"num_selected must be 1 to {experts}, the experts{among}, got {num_selected}")
        self.num_selected = num_selected

    def set_priority(self, priority: str, mode: str = "both") -> None:
        """Change who gets the slots in ``"train"``, ``"eval"`` or ``"both"``.

        Raises:
            ValueError: for another priority or mode.
        """
        if priority not in PRIORITIES:
            raise ValueError(f"priority must be one of {', '.join(PRIORITIES)}, got {priority!r}")
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if mode != "eval":
            self.priority = priority
        if mode != "train":
            self.eval_priority = priority

    def forward(self, x: Tensor, every_loss: bool = False) -> tuple[Routing, dict[str, Tensor]]:
        """Route tokens ``[B, P, C]`` of B images.

        Args:
            x: tokens; members of an ensemble are the fastest in P.
            every_loss: return losses of weight 0, and those of evaluation, too.

        Returns:
            The routing, and the losses as :meth:`losses` returns them.
        """
        logits = self.logits(x)
        return self.route(logits, self.draw_noise(logits), every_loss)

    def route(
        self, logits: Tensor, noise: Optional[Tensor] = None, every_loss: bool = False
    ) -> tuple[Routing, dict[str, Tensor]]:
        """Route by logits ``[B, P, E / M]`` and noise in their shape; see :meth:`forward`."""
        noisy = logits if noise is None else logits + noise
        gates, own = top_k_gates(noisy.flatten(0, 1), self.num_selected)
        experts, members = own, self.num_members
        if members > 1:
            member = torch.arange(own.shape[0], device=own.device)[:, None] % members
            experts = own + member * (self.num_experts // members)
        size = shape_of_groups(logits.shape[0], self.group_images)[1] * logits.shape[1]
        if self.factor_in_use() == math.inf:
            routing = place_all(gates, experts, self.num_experts, size)
        else:
            priority = self.priority if self.training else self.eval_priority
            first = gates[:, 0] if priority == "batch" else None
            # An expert is chosen by each token of its member once at most.
            capacity = min(self.capacity(size * self.num_selected), size // members)
            slots = moe_slots(experts, self.num_experts, size, capacity, first)
            routing = Routing(gates, *slots, experts, capacity)
        if not (self.training or every_loss):
            return routing, {}
        clean = cut_into_groups(logits, self.group_images)
        routed = clean if noise is None else clean._replace(values=pad_to_groups(noisy, self.group_images))
        own = pad_to_groups(own.unflatten(0, logits.shape[:2]), self.group_images)
        return routing, self.losses(clean, routed, own, every_loss)

    def losses(self, clean: Grouped, noisy: Grouped, experts: Tensor, every_loss: bool) -> dict[str, Tensor]:
        """Return the auxiliary losses by name, each ``[G]``, or ``[G, M]`` of an ensemble.

        Args:
            clean: logits without noise.
            noisy: logits that routed.
            experts: ``[G, S, K]``, the choices among a member's experts.
            every_loss: return those of weight 0, too.
        """

        def by_member(x: Tensor) -> Tensor:
            """Bring ``[G, S, ...]`` to ``[G, M, S / M, ...]``."""
            return x.unflatten(1, (-1, self.num_members)).transpose(1, 2)

        whole = self.balance == "batch"
        logits, present = by_member(clean.values), by_member(clean.present)
        found: dict[str, Tensor] = {}
        if every_loss or self.loss_weights["importance"]:
            found["importance"] = importance_loss(logits.softmax(-1), present, whole)
        if (every_loss or self.loss_weights["load"]) and noisy is not clean:
            threshold = by_member(noisy.values).gather(-1, by_member(experts[..., -1:]))
            found["load"] = load_loss(logits, threshold, self.noise_std, present, whole)
        if every_loss or self.loss_weights["gshard"]:
            found["gshard"] = gshard_loss(by_member(noisy.values).softmax(-1), present, whole)
        return {name: loss.squeeze(1) if self.num_members == 1 else loss for name, loss in found.items()}


class ExpertChoiceRouter(GroupRouter):
    """Every expert chooses its tokens; a token may have none, or several (arXiv:2202.09368).

    There is nothing to balance. The capacity is that of one choice a token.

    Args:
        dim: channels of a token.
        num_experts: experts.
        capacity_factor: slots of all experts divided by tokens, in training.
        eval_capacity_factor: the same in evaluation; that of training by default.
        group_images: images of a full group.
        rounding: of the capacity, ``"ceil"`` or ``"round"``.
        multiple_of: the capacity is raised to a multiple of it.
        noise_std: deviation of the noise on the logits in training, divided by the experts.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        dim: int,
        num_experts: int,
        capacity_factor: float = 1.0,
        eval_capacity_factor: Optional[float] = None,
        group_images: int = 1,
        rounding: str = "round",
        multiple_of: int = 1,
        noise_std: float = 1.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            dim,
            num_experts,
            capacity_factor,
            eval_capacity_factor,
            group_images,
            rounding,
            multiple_of,
            noise_std,
            device=device,
            dtype=dtype,
        )
        self.loss_weights: dict[str, float] = {}

    def forward(self, x: Tensor, every_loss: bool = False) -> tuple[Routing, dict[str, Tensor]]:
        """Route tokens ``[B, P, C]`` of B images; there are no losses."""
        logits = self.logits(x)
        return self.route(logits, self.draw_noise(logits))[0], {}

    def route(self, logits: Tensor, noise: Optional[Tensor] = None) -> tuple[Routing, Tensor]:
        """Route by logits ``[B, P, E]``.

        Returns:
            The routing, and the tokens ``[G, E, capacity]`` of each expert, as places in their group.
        """
        grouped = cut_into_groups(logits if noise is None else logits + noise, self.group_images)
        size = grouped.values.shape[1]
        # No more than all of them.
        capacity = min(self.capacity(size), size)
        return choose_tokens(grouped.values.softmax(-1), grouped, capacity)


class SoftRouter(nn.Module):
    """Every slot is a mixture of all tokens of the image, and every token one of all slots (arXiv:2308.00951).

    Args:
        dim: channels of a token.
        num_experts: experts.
        num_slots: slots of each expert.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if there is no slot.
    """

    def __init__(self, dim: int, num_experts: int, num_slots: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        if num_slots < 1 or num_experts < 1:
            raise ValueError(
                f"Soft MoE needs at least one slot an expert, got {num_slots} slots of {num_experts} experts; raise "
                f"capacity_factor or give num_slots"
            )
        # Nothing is to be balanced.
        self.loss_weights: dict[str, float] = {}
        self.mu = nn.Parameter(torch.empty(dim, num_experts, num_slots, device=device, dtype=dtype))
        self.scale = nn.Parameter(torch.empty((), device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the slots' directions from a normal of deviation ``dim ** -0.5``, and set the scale to 1."""
        nn.init.normal_(self.mu, std=self.mu.shape[0] ** -0.5)
        nn.init.ones_(self.scale)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return dispatch and combine weights of tokens ``[B, P, C]``, both ``[B, P, experts * slots]``.

        Dispatch weights sum to 1 over tokens, combine weights over slots.
        """
        dtype = torch.promote_types(x.dtype, torch.float32)
        with without_autocast(x):
            x, mu = x.to(dtype), self.mu.to(dtype).flatten(1)
            x = x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)
            mu = mu * torch.rsqrt(mu.square().sum(0, keepdim=True) + 1e-6)
            logits = self.scale.to(dtype) * (x @ mu)
            return logits.softmax(1), logits.softmax(2)
