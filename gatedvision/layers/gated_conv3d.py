"""Gated convolution of videos."""

from collections.abc import Callable
from typing import Any, Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gatedvision.layers.gated_conv import activate_gated

Triple = Union[int, tuple[int, int, int]]


class GatedConv3d(nn.Module):
    """Gated convolution over time and space (Y.-L. Chang et al., arXiv:1904.10247, section 3.2).

    ``norm(act(W x + b) * sigmoid(W' x + b'))``: value and gate are two convolutions, each with a spectral norm of its
    own, which run as one.

    Args:
        in_chans: channels of the input.
        dim: channels of the output.
        kernel_size: frames, rows and columns of the kernel, odd, or one number for all.
        stride: steps along time, rows and columns.
        dilation: distance between taps along time, rows and columns.
        activation: of the value: ``"leaky_relu"`` (slope 0.2), ``"relu"``, ``"elu"`` or ``"identity"``.
        norm_layer: makes a norm of ``dim`` channels for the product, such as ``nn.BatchNorm3d``; None for none.
        normalize: apply a spectral norm to either convolution.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        kernel_size: Triple = 3,
        stride: Triple = 1,
        dilation: Triple = 1,
        activation: str = "leaky_relu",
        norm_layer: Optional[Callable[..., nn.Module]] = None,
        normalize: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        frames, rows, columns = (kernel_size,) * 3 if isinstance(kernel_size, int) else kernel_size
        steps = (dilation, dilation, dilation) if isinstance(dilation, int) else dilation
        sizes = (frames, rows, columns)
        # Padding that keeps the size where the stride is 1.
        padding = (steps[0] * (frames - 1) // 2, steps[1] * (rows - 1) // 2, steps[2] * (columns - 1) // 2)
        self.activation = activation
        convs = [nn.Conv3d(in_chans, dim, sizes, stride, padding, steps, **dd) for _ in range(2)]
        self.conv_value, self.conv_gate = (spectral_norm(conv) if normalize else conv for conv in convs)
        self.norm = nn.Identity() if norm_layer is None else norm_layer(dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, T, H, W]`` to ``[B, dim, T', H', W']``."""
        # Behind a spectral norm a weight is computed at each access.
        value: Any = self.conv_value
        gate: Any = self.conv_gate
        weight, bias = torch.cat([value.weight, gate.weight]), torch.cat([value.bias, gate.bias])
        z = F.conv3d(x, weight, None, value.stride, value.padding, value.dilation)
        return self.norm(activate_gated(z, bias, self.activation))
