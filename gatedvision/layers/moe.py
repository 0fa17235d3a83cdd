"""Mixtures of expert perceptrons in place of a block's one (arXiv:2106.05974, 2110.03360, 2202.09368, 2308.00951)."""

from typing import Any, Optional, Union

import torch
from timm.layers import get_act_layer, register_notrace_module
from torch import Tensor, nn

from gatedvision.layers._autocast import to_autocast_dtype
from gatedvision.layers._transient import Transient
from gatedvision.layers.grouped_linear import grouped_linear
from gatedvision.layers.moe_routers import ExpertChoiceRouter, SoftRouter, TopKRouter
from gatedvision.layers.moe_routing import Routing
from gatedvision_kernels import bias_gelu, moe_combine, moe_dispatch

# Activations that one pass computes together with the bias before them, and torch's names of their forms.
GELU_FORMS = {get_act_layer("gelu"): "none", get_act_layer("gelu_tanh"): "tanh"}
# Experts of fewer slots compute faster together, empty ones and all, than one after the other, if this share is taken.
MIN_SLOTS = 128
MIN_TAKEN = 0.7


class ExpertLinear(nn.Module):
    """One linear layer for each expert.

    Args:
        num_experts: experts.
        in_features: channels of the input.
        out_features: channels of the output.
        identical: all experts start from one draw, as published.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        num_experts: int,
        in_features: int,
        out_features: int,
        identical: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.identical = identical
        self.weight = nn.Parameter(torch.empty(num_experts, in_features, out_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(num_experts, out_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw each expert's weight as Xavier did, and biases of deviation 1e-6."""
        bound = (6 / (self.weight.shape[1] + self.weight.shape[2])) ** 0.5
        with torch.no_grad():
            if self.identical:
                self.weight.copy_(torch.empty_like(self.weight[0]).uniform_(-bound, bound).expand_as(self.weight))
                self.bias.copy_(torch.empty_like(self.bias[0]).normal_(std=1e-6).expand_as(self.bias))
            else:
                self.weight.uniform_(-bound, bound)
                self.bias.normal_(std=1e-6)

    def forward(self, x: Tensor, ends: Optional[Tensor] = None, add_bias: bool = True) -> Tensor:
        """Map ``[E, R, in]``, R rows of each expert, to ``[E, R, out]``; or ``[R, in]`` to ``[R, out]``.

        Args:
            x: the rows.
            ends: ``[E]`` int32, the row behind those of each expert in ``[R, in]``.
            add_bias: false to leave the bias of ``[E, R, out]`` to what comes next.
        """
        if ends is not None:
            return grouped_linear(x, self.weight, self.bias, ends)
        if not add_bias:
            return torch.bmm(x, self.weight)
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight)


class ExpertMlp(nn.Module):
    """Two linear layers with an activation between them, for each expert.

    Args:
        dim: channels of input and output.
        hidden_dim: channels in between.
        num_experts: experts.
        act: timm's name of the activation.
        drop: dropout after the activation and at the end, 0 to 1.
        identical: all experts start from one draw, as published.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    # Experts may get different numbers of rows; not where processes exchange them.
    takes_ends = True

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        num_experts: int,
        act: str = "gelu_tanh",
        drop: float = 0.0,
        identical: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        act_layer = get_act_layer(act)
        assert act_layer is not None
        self.act = act_layer()
        self.fc1 = ExpertLinear(num_experts, dim, hidden_dim, identical, **dd)
        self.fc2 = ExpertLinear(num_experts, hidden_dim, dim, identical, **dd)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor, ends: Optional[Tensor] = None) -> Tensor:
        """Map ``[E, R, C]``, R rows of each expert, or ``[R, C]`` with the experts' ``ends``, as they come."""
        form = GELU_FORMS.get(type(self.act))
        if form is None or ends is not None:
            hidden = self.act(self.fc1(x, ends))
        else:
            hidden = bias_gelu(self.fc1(x, add_bias=False), self.fc1.bias, approximate=form)
        return self.drop(self.fc2(self.drop(hidden), ends))


class LastForward(Transient):
    """What a layer keeps of its last forward pass; copies and files of the layer leave it out.

    Attributes:
        losses: auxiliary losses by name, ``[G]`` or ``[G, M]``, with gradient.
        routing: where tokens went, if the layer is to keep it.
    """

    def __init__(self) -> None:
        self.losses: dict[str, Tensor] = {}
        self.routing: Optional[Routing] = None


class MoeMlp(nn.Module):
    """Experts with slots: tokens are dispatched into fixed buffers, and what the experts made of them combined.

    Compute and memory of the experts follow the capacity, whatever tokens choose. A token without a slot gets 0. With
    an infinite capacity nothing is dropped and nothing padded: experts work on as many tokens as chose them. Nor are,
    on a CPU and in evaluation without gradients, buffers that are large or rather empty: there, what experts work on
    follows from the tokens.

    Args:
        router: decides who goes where.
        experts: the experts.

    Attributes:
        keep_routing: keep, in :attr:`last`, the routing of each forward pass, and every loss in evaluation, too.
        last: what the last forward pass left for the task.
    """

    def __init__(self, router: Union[TopKRouter, ExpertChoiceRouter], experts: ExpertMlp) -> None:
        super().__init__()
        self.router = router
        self.experts = experts
        self.keep_routing = False
        self.last = LastForward()

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens ``[B, N, C]`` to ``[B, N, C]``; of an ensemble of M members, row b * M + m is member m's b."""
        members = self.router.num_members
        narrow = to_autocast_dtype(x)
        if members > 1:
            # Members become the fastest: [B / M, N, M, C].
            x, narrow = (t.unflatten(0, (-1, members)).transpose(1, 2).flatten(1, 2) for t in (x, narrow))
        routing, losses = self.router(x, self.keep_routing)
        self.last.losses = losses
        self.last.routing = routing if self.keep_routing else None
        if routing.ends is None and self._leaves_out_empty_slots(x, routing):
            routing = routing.without_empty_slots(self.router.num_experts)
        slots = (routing.choice_of_slot, routing.slot_of_choice)
        buffers = moe_dispatch(narrow.flatten(0, 1), *slots)
        if routing.ends is None:
            buffers = self.experts(buffers.unflatten(0, (self.router.num_experts, -1))).flatten(0, 1)
        else:
            buffers = self.experts(buffers, routing.ends)
        y = moe_combine(buffers, routing.gates, *slots).view(x.shape)
        return y if members == 1 else y.unflatten(1, (-1, members)).transpose(1, 2).flatten(0, 1)

    def _leaves_out_empty_slots(self, x: Tensor, routing: Routing) -> bool:
        """Tell whether sizes may follow from values, and it pays: on a CPU, in evaluation, many slots or empty ones."""
        # Exact type: others, as of exporters, have no values.
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) is not Tensor or not x.is_cpu:
            return False
        if self.training or torch.is_grad_enabled() or not self.experts.takes_ends:
            return False
        slots = routing.choice_of_slot
        if len(slots) >= MIN_SLOTS * self.router.num_experts:
            return True
        return int((slots >= 0).sum()) < MIN_TAKEN * len(slots)


class SoftMoeMlp(nn.Module):
    """Experts on mixtures of tokens (arXiv:2308.00951, section 2): nothing is dropped, nothing to balance.

    Args:
        router: weighs tokens for slots, and slots for tokens.
        experts: the experts.
    """

    def __init__(self, router: SoftRouter, experts: ExpertMlp) -> None:
        super().__init__()
        self.router = router
        self.experts = experts
        self.keep_routing = False
        self.last = LastForward()

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens ``[B, N, C]`` to ``[B, N, C]``, image by image."""
        dispatch, combine = self.router(x)
        _, num_experts, num_slots = self.router.mu.shape
        slots = dispatch.to(x.dtype).transpose(1, 2) @ x
        # [B, E * p, C] -> [E, B * p, C] and back.
        slots = slots.unflatten(1, (num_experts, num_slots)).transpose(0, 1).flatten(1, 2)
        slots = self.experts(slots).unflatten(1, (-1, num_slots)).transpose(0, 1).flatten(1, 2)
        return combine.to(slots.dtype) @ slots


# Leaves for torch.fx, whose buffers follow from shapes. As decorators these would hide the classes from type checkers.
register_notrace_module(MoeMlp)
register_notrace_module(SoftMoeMlp)
