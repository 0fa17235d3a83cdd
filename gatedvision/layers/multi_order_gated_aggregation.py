"""The spatial mixer of MogaNet: context of three reaches behind a gate."""

from collections.abc import Sequence
from typing import Any, Optional

import torch
from timm.layers import register_notrace_function
from torch import Tensor, nn

from gatedvision.layers._autocast import to_autocast_dtype
from gatedvision.layers._hooks import are_plain
from gatedvision.layers.linear import Linear
from gatedvision.layers.multi_order_dwconv import MultiOrderDWConv
from gatedvision_kernels import (
    gated_product,
    gated_product_linear,
    gated_product_linear_reference,
    spatial_decomposition,
    spatial_decomposition_reference,
)


# torch.fx keeps functions whole only if their names begin with a letter.
@register_notrace_function
def decompose_spatially(x: Tensor, scale: Tensor) -> Tensor:
    """Call the operator: a leaf for torch.fx, plain torch in TorchScript."""
    if torch.jit.is_scripting():
        return spatial_decomposition_reference(x, scale)
    else:
        return spatial_decomposition(x, scale)


@register_notrace_function
def project_gated_product(
    gate: Tensor, value: Tensor, weight: Tensor, bias: Optional[Tensor], double: bool = False
) -> Tensor:
    """Call the operator: a leaf for torch.fx, plain torch in TorchScript; autocast applies to gate and value.

    Args:
        gate: ``[..., C]``.
        value: ``[..., C]``.
        weight: ``[D, C]``, of the linear layer.
        bias: ``[D]`` or nothing.
        double: apply SiLU twice to both.

    Returns:
        ``[..., D]``.
    """
    if torch.jit.is_scripting():
        return gated_product_linear_reference(gate, value, weight, bias, double)
    else:
        gate, value = to_autocast_dtype(gate), to_autocast_dtype(value)
        return gated_product_linear(gate, value, weight, bias, double=double)


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
        self.proj_in = Linear(dim, dim, **dd)
        self.scale = nn.Parameter(torch.full((dim,), 1e-5, **dd))
        self.proj_gate = Linear(dim, dim, **dd)
        self.value = MultiOrderDWConv(dim, dilations, channel_split, **dd)
        self.proj_out = Linear(dim, dim, **dd)

    def reset_parameters(self) -> None:
        """Set the scale of the decomposition to 1e-5."""
        nn.init.constant_(self.scale, 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Mix ``[B, H, W, C]``, normalised, into the same shape."""
        y = decompose_spatially(self.proj_in(x), self.scale)
        gate, value = self.proj_gate(y), self.value(y)
        if not torch.jit.is_scripting():
            if not are_plain(self.proj_out):
                return x + self.proj_out(gated_product(gate, value.to(gate.dtype), double=self.double_gate))
        return x + project_gated_product(gate, value, self.proj_out.weight, self.proj_out.bias, self.double_gate)
