"""The spatial mixer of MogaNet: context of three reaches behind a gate."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor, nn

from gatedvision.layers.multi_order_dwconv import MultiOrderDWConv


# torch.fx keeps functions whole only if their names begin with a letter.
@register_notrace_function
def decompose_spatially(x: Tensor, scale: Tensor) -> Tensor:
    """Return ``silu(x + scale * (x - mean(x)))``, which weighs anew what differs from the mean over the map.

    Args:
        x: ``[B, H, W, C]``.
        scale: ``[C]``.
    """
    return F.silu(x + scale * (x - x.mean((1, 2), keepdim=True)))


@register_notrace_function
def gated_product(gate: Tensor, value: Tensor, double: bool = False) -> Tensor:
    """Return ``silu(gate) * silu(value)``, or with ``double`` the product of the SiLUs of these SiLUs.

    Args:
        gate: any shape.
        value: the same shape.
        double: apply SiLU twice to both.
    """
    gate, value = F.silu(gate), F.silu(value)
    if double:
        gate, value = F.silu(gate), F.silu(value)
    return gate * value


class MultiOrderGatedAggregation(nn.Module):
    """Multi-order gated aggregation on channels-last maps (MogaNet, arXiv:2211.03295, section 4.2).

    With linear layers P1, P2 and G, a scale per channel s, and M the multi-order depthwise convolution::

        y = P1 x
        y = silu(y + s * (y - mean(y)))
        out = x + P2(silu(G y) * silu(M y))

    The shortcut from the input, which is the output of a norm, is missing in the paper's figure but part of
    the published network.

    Args:
        dim: channels, a multiple of the sum of ``channel_split``.
        dilations: as in :class:`MultiOrderDWConv`.
        channel_split: as in :class:`MultiOrderDWConv`.
        double_gate: apply SiLU twice to gate and value: ``silu(silu(G y)) * silu(silu(M y))``. Weights trained
            so need it, and others must not have it.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if there are not three dilations and three groups, or ``dim`` does not split.
    """

    def __init__(
        self,
        dim: int,
        dilations: Sequence[int] = (1, 2, 3),
        channel_split: Sequence[int] = (1, 3, 4),
        double_gate: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.double_gate = double_gate
        self.proj_in = nn.Linear(dim, dim, **dd)
        self.scale = nn.Parameter(torch.full((dim,), 1e-5, **dd))
        self.proj_gate = nn.Linear(dim, dim, **dd)
        self.value = MultiOrderDWConv(dim, dilations, channel_split, **dd)
        self.proj_out = nn.Linear(dim, dim, **dd)

    def reset_parameters(self) -> None:
        """Set the scale of the decomposition to 1e-5."""
        nn.init.constant_(self.scale, 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Mix ``[B, H, W, C]``, normalised, into the same shape."""
        y = decompose_spatially(self.proj_in(x), self.scale)
        return x + self.proj_out(gated_product(self.proj_gate(y), self.value(y), self.double_gate))
