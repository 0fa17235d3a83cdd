"""The kernels of the depthwise convolution as one differentiable operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from gatedvision_kernels._device import on_device_of
from gatedvision_kernels._operator import custom_op
from gatedvision_kernels._rows import adjacent
from gatedvision_kernels._two_ways import two_ways
from gatedvision_kernels.depthwise_conv2d.convolve import convolve
from gatedvision_kernels.depthwise_conv2d.weight_gradient import differentiate_weight


def _run_forward(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    with on_device_of(x):
        return convolve(adjacent(x), weight, bias, dilation, turn=False)


def _run_backward(grad_y: Tensor, x: Tensor, weight: Tensor, dilation: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of input, weight and, in float32, bias."""
    grad_y, x = adjacent(grad_y), adjacent(x)
    with on_device_of(x):
        return (
            convolve(grad_y, weight, None, dilation, turn=True),
            *differentiate_weight(grad_y, x, weight, dilation),
        )


_depthwise_conv2d = custom_op(
    "depthwise_conv2d",
    _run_forward,
    schema="(Tensor x, Tensor weight, Tensor? bias, int dilation) -> Tensor",
    whole=True,
)
_depthwise_conv2d_backward = custom_op(
    "depthwise_conv2d_backward",
    _run_backward,
    schema="(Tensor grad_y, Tensor x, Tensor weight, int dilation) -> (Tensor, Tensor, Tensor)",
    whole=True,
)


@_depthwise_conv2d.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    return x.new_empty(x.shape)


@_depthwise_conv2d_backward.register_fake
def _(grad_y: Tensor, x: Tensor, weight: Tensor, dilation: int) -> tuple[Tensor, Tensor, Tensor]:
    grad_bias = weight.new_empty((weight.shape[0],), dtype=torch.float32)
    return x.new_empty(x.shape), weight.new_empty(weight.shape), grad_bias


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, int], output: Tensor) -> None:
    x, weight, bias, ctx.dilation = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(x, weight)


def _differentiate(backward: Callable, ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
    grad_x, grad_weight, grad_bias = backward(grad_y, *ctx.saved_tensors, ctx.dilation)
    return grad_x, grad_weight, None if ctx.bias_dtype is None else grad_bias.to(ctx.bias_dtype), None


depthwise_conv2d_triton = two_ways(
    _depthwise_conv2d, _run_forward, _depthwise_conv2d_backward, _run_backward, _save, _differentiate
)


# A multiply-add per tap and pixel, of two operations; the gradients of input and weight take as many each.
@register_flop_formula(torch.ops.gatedvision.depthwise_conv2d)
def _count_flops(x: torch.Size, weight: torch.Size, *args: Any, **kwargs: Any) -> int:
    return 2 * x.numel() * weight[2] * weight[3]


@register_flop_formula(torch.ops.gatedvision.depthwise_conv2d_backward)
def _count_backward_flops(grad_y: torch.Size, x: torch.Size, weight: torch.Size, *args: Any, **kwargs: Any) -> int:
    return 4 * x.numel() * weight[2] * weight[3]
