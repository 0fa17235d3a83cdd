"""MogaNet in plain PyTorch (arXiv:2211.03295), as convolutions and batch norms on maps ``[B, C, H, W]``."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedvision.layers.channel_aggregation import ChannelAggregationFFN
from gatedvision.layers.multi_order_dwconv import MultiOrderDWConv
from gatedvision.layers.multi_order_gated_aggregation import MultiOrderGatedAggregation
from gatedvision.models.moganet import MogaNet


def plain_moganet(model: MogaNet) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the forward pass with channels first and last in memory.

    Args:
        model: whose parameters are used, in evaluation.
    """
    formats = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
    return {name: partial(_run, model, memory_format) for name, memory_format in formats.items()}


def _run(model: Any, memory_format: torch.memory_format, image: Tensor) -> Tensor:
    x = image.contiguous(memory_format=memory_format)
    for layer in model.stem.layers:
        x = F.gelu(x) if isinstance(layer, nn.GELU) else layer.norm(layer.conv(x))
    for stage in model.stages:
        if not isinstance(stage.downsample, nn.Identity):
            x = stage.downsample.norm(stage.downsample.conv(x))
        for block in stage.blocks:
            x = torch.addcmul(x, _by_channel(block.scale_mixer), _mix(block.mixer, block.norm_mixer(x)))
            x = torch.addcmul(x, _by_channel(block.scale_mlp), _mix_channels(block.mlp, block.norm_mlp(x)))
        x = stage.norm(x)
    return model.head(x)


def _mix(mixer: MultiOrderGatedAggregation, x: Tensor) -> Tensor:
    y = _pointwise(mixer.proj_in, x)
    scale = _by_channel(mixer.scale)
    # y + s (y - mean y), in one pass.
    y = F.silu(torch.addcmul(-scale * y.mean((2, 3), keepdim=True), y, 1 + scale))
    gate, value = F.silu(_pointwise(mixer.proj_gate, y)), F.silu(_convolve(mixer.value, y))
    if mixer.double_gate:
        gate, value = F.silu(gate), F.silu(value)
    return x + _pointwise(mixer.proj_out, gate * value)


def _convolve(conv: MultiOrderDWConv, x: Tensor) -> Tensor:
    low, middle, high = _depthwise(conv.conv_low, x).split(conv.widths, dim=1)
    orders = [low, _depthwise(conv.conv_middle, middle), _depthwise(conv.conv_high, high)]
    return _pointwise(conv.proj, torch.cat(orders, 1))


def _mix_channels(mlp: ChannelAggregationFFN, x: Tensor) -> Tensor:
    y = F.gelu(_depthwise(mlp.conv_dw, _pointwise(mlp.proj_in, x)))
    common = F.gelu(_pointwise(mlp.proj_common, y))
    # W (y + s (y - common)) with the scales in the weight, which is small, not in the map.
    weight = mlp.proj_out.weight
    y = F.conv2d(y, (weight * (1 + mlp.scale))[:, :, None, None], mlp.proj_out.bias)
    return torch.addcmul(y, common, _by_channel(weight @ mlp.scale), value=-1)


def _depthwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def _pointwise(linear: nn.Linear, x: Tensor) -> Tensor:
    return F.conv2d(x, linear.weight[:, :, None, None], linear.bias)


def _by_channel(vector: Tensor) -> Tensor:
    return vector[:, None, None]
