"""Depthwise convolution in plain torch: the definition of the operator."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor


def depthwise_conv2d_reference(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None, dilation: int = 1) -> Tensor:
    """Compute what :func:`gatedvision_kernels.depthwise_conv2d` defines, on any device.

    Differentiable by autograd, computed in float64 if ``x`` is float64 and in float32 otherwise,
    whatever autocast says. TorchScript, which cannot ask for the type of a device, leaves the types to autocast.

    Args:
        x: ``[B, H, W, C]``.
        weight: ``[C, 1, K, K]``, K odd.
        bias: ``[C]`` or nothing.
        dilation: pixels between neighbouring taps.

    Returns:
        ``[B, H, W, C]``, contiguous, in the dtype of ``x``.
    """
    if torch.jit.is_scripting():
        return _convolve(x, weight, bias, dilation)
    else:
        # Programs that torch.export records would keep the context: it is entered only where it changes something.
        if not x.is_meta and torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return _convolve(x, weight, bias, dilation)
        return _convolve(x, weight, bias, dilation)


def _convolve(x: Tensor, weight: Tensor, bias: Optional[Tensor], dilation: int) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    y = F.conv2d(
        x.to(dtype).permute(0, 3, 1, 2),
        weight.to(dtype),
        None if bias is None else bias.to(dtype),
        padding=weight.shape[3] // 2 * dilation,
        dilation=dilation,
        groups=weight.shape[0],
    )
    return y.permute(0, 2, 3, 1).to(x.dtype).contiguous()
