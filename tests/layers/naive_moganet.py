"""MogaNet's layers once more, tap by tap and with their formulas written out."""

import math
from typing import Any

import torch
from torch import Tensor


def depthwise(x: Tensor, conv: Any, dilation: int) -> Tensor:
    """Convolve ``[B, H, W, C]`` by adding up shifted maps, zeros outside."""
    kernel, side = conv.weight.squeeze(1), conv.weight.shape[-1]
    _, height, width, _ = x.shape
    y = conv.bias.expand_as(x).clone()
    for row in range(height):
        for column in range(width):
            for i in range(side):
                for j in range(side):
                    r, c = row + (i - side // 2) * dilation, column + (j - side // 2) * dilation
                    if 0 <= r < height and 0 <= c < width:
                        y[:, row, column] += x[:, r, c] * kernel[:, i, j]
    return y


def multi_order(x: Tensor, layer: Any, dilations: tuple[int, ...], widths: tuple[int, ...]) -> Tensor:
    low = depthwise(x, layer.conv_low, dilations[0])
    first, second = widths[0], widths[0] + widths[1]
    middle = depthwise(low[..., first:second], layer.conv_middle, dilations[1])
    high = depthwise(low[..., second:], layer.conv_high, dilations[2])
    return layer.proj(torch.cat([low[..., :first], middle, high], dim=-1))


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2
