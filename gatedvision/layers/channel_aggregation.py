"""The channel mixer of MogaNet: a convolutional MLP that weighs anew what its channels do not share."""

from typing import Any, Optional

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor, nn

from gatedvision.layers._autocast import to_autocast_dtype
from gatedvision.layers._hooks import are_plain
from gatedvision.layers.depthwise_conv import DepthwiseConv
from gatedvision.layers.linear import Linear
from gatedvision_kernels import channel_aggregation_linear, channel_aggregation_linear_reference


# torch.fx keeps functions whole only if their names begin with a letter.
@register_notrace_function
def project_aggregated_channels(
    x: Tensor,
    common_weight: Tensor,
    common_bias: Tensor,
    scale: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],
) -> Tensor:
    """Call the operator: a leaf for torch.fx, plain torch in TorchScript; autocast applies to ``x``.

    Args:
        x: ``[..., E]``.
        common_weight: ``[1, E]``, of the linear layer to a channel common to all.
        common_bias: ``[1]``.
        scale: ``[E]``, factor of what differs from the common channel.
        weight: ``[D, E]``, of the linear layer after it.
        bias: ``[D]`` or nothing.

    Returns:
        ``[..., D]``.
    """
    common_weight = common_weight.flatten()
    if torch.jit.is_scripting():
        return channel_aggregation_linear_reference(x, common_weight, common_bias, scale, weight, bias)
    else:
        x = to_autocast_dtype(x)
        return channel_aggregation_linear(x, common_weight, common_bias, scale, weight, bias)


class ChannelAggregationFFN(nn.Module):
    """Channel aggregation feed-forward on channels-last maps (MogaNet, arXiv:2211.03295, section 4.3).

    With linear layers F1, F2 and D, the last to a single channel, a scale per channel s, and DW a depthwise
    3x3 convolution::

        h = gelu(DW(F1 x))
        h = h + s * (h - gelu(D h))
        out = F2 h

    Args:
        dim: channels of input and output.
        hidden_dim: channels in between.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(self, dim: int, hidden_dim: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.proj_in = Linear(dim, hidden_dim, **dd)
        self.conv_dw = DepthwiseConv(hidden_dim, 3, **dd)
        # A convolution to one channel would leave the memory order of its output, and of its gradient, open.
        self.proj_common = Linear(hidden_dim, 1, **dd)
        self.scale = nn.Parameter(torch.full((hidden_dim,), 1e-5, **dd))
        self.proj_out = Linear(hidden_dim, dim, **dd)

    def reset_parameters(self) -> None:
        """Set the scale of the decomposition to 1e-5."""
        nn.init.constant_(self.scale, 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, H, W, C]`` to the same shape."""
        hidden = self.conv_dw(self.proj_in(x))
        if not torch.jit.is_scripting():
            if not are_plain(self.proj_common, self.proj_out):
                hidden = F.gelu(hidden)
                return self.proj_out(hidden + self.scale * (hidden - F.gelu(self.proj_common(hidden))))
        return project_aggregated_channels(
            hidden,
            self.proj_common.weight,
            self.proj_common.bias,
            self.scale,
            self.proj_out.weight,
            self.proj_out.bias,
        )
