"""The channel mixer of MogaNet: a convolutional MLP that weighs anew what its channels do not share."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor, nn

from gatedvision.layers.depthwise_conv import DepthwiseConv


# torch.fx keeps functions whole only if their names begin with a letter.
@register_notrace_function
def decompose_channels(x: Tensor, common: Tensor, scale: Tensor) -> Tensor:
    """Return ``x + scale * (x - gelu(common))``, which weighs anew what differs from a channel common to all.

    Args:
        x: ``[..., C]``.
        common: ``[..., 1]``.
        scale: ``[C]``.
    """
    return x + scale * (x - F.gelu(common))


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
        self.proj_in = nn.Linear(dim, hidden_dim, **dd)
        self.conv_dw = DepthwiseConv(hidden_dim, 3, **dd)
        # A convolution to one channel would leave the memory order of its output, and of its gradient, open.
        self.proj_common = nn.Linear(hidden_dim, 1, **dd)
        self.scale = nn.Parameter(torch.full((hidden_dim,), 1e-5, **dd))
        self.proj_out = nn.Linear(hidden_dim, dim, **dd)

    def reset_parameters(self) -> None:
        """Set the scale of the decomposition to 1e-5."""
        nn.init.constant_(self.scale, 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, H, W, C]`` to the same shape."""
        h = F.gelu(self.conv_dw(self.proj_in(x)))
        return self.proj_out(decompose_channels(h, self.proj_common(h), self.scale))
