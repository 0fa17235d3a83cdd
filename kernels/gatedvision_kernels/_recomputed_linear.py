"""A linear layer on the output of an operator, which is computed again in the backward pass rather than kept.

For an operator f, a weight W and a bias b::

    out = f(x) W^T + b

Autograd keeps f(x), for the gradient of W, beside x. Here only x is kept: the backward kernel of f, which reads x
anyway, writes f(x) once more beside the gradient of x. For a compiler that kernel is an operator of its own, so that
it cannot merge the second computation with the first.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import CustomOpDef
from torch.utils.flop_counter import register_flop_formula

from gatedvision_kernels._column_sum import column_sum
from gatedvision_kernels._linear import apply_linear
from gatedvision_kernels._operator import custom_op
from gatedvision_kernels._two_ways import two_ways


def check_linear(weight: Tensor, bias: Optional[Tensor], width: int) -> None:
    """Check the parameters of a linear layer on rows of ``width`` elements.

    Raises:
        ValueError: unless ``weight`` is ``[O, width]`` and ``bias``, if there is one, ``[O]``, floating point both.
    """
    if weight.ndim != 2 or weight.shape[1] != width or 0 in weight.shape:
        raise ValueError(f"weight must be [O, {width}] with O > 0, got {tuple(weight.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"bias must be [{weight.shape[0]}] beside weight {tuple(weight.shape)}, got {list(bias.shape)}"
        )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {tensor.dtype}")


def linear(y: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
    """Apply a linear layer in the dtype of ``y``, whatever autocast says.

    TorchScript, which cannot ask for the type of a device, leaves the dtype to autocast.
    """
    weight = weight.to(y.dtype)
    bias = None if bias is None else bias.to(y.dtype)
    if torch.jit.is_scripting():
        return F.linear(y, weight, bias)
    else:
        # Programs that torch.export records would keep the context, so it is entered only where it changes something.
        device = y.device.type
        differs = not y.is_meta and torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) != y.dtype
        with torch.autocast(device, enabled=False) if differs else nullcontext():
            return apply_linear(y, weight, bias)


def recomputed_linear(
    name: str,
    schema: str,
    forward: Callable[..., Tensor],
    backward_operator: CustomOpDef,
    backward: Callable[..., tuple[Tensor, ...]],
) -> Callable[..., Tensor]:
    """Make a linear layer on an operator f of rows an operator that keeps the inputs of f and not its output.

    Args:
        name: of the new custom operator, in the namespace ``gatedvision``.
        schema: the arguments of f, tensors before options, as ``"Tensor gate, Tensor value, bool double"``.
        forward: launches the forward kernel: takes these arguments and returns ``[..., E]``. The first one
            has all but the last axis of the result, and its dtype.
        backward_operator: custom operator around ``backward``.
        backward: launches the backward kernel: takes the gradient of f's output and the arguments of f; returns
            the gradients of the tensors, in any dtype, and after them the output once more.

    Returns:
        A function of weight ``[O, E]``, bias ``[O]`` or ``None``, both in any floating dtype, and the arguments
        of f. It returns ``[..., O]`` in the dtype of f's output.
    """

    def run(weight: Tensor, bias: Tensor | None, *arguments: Any) -> Tensor:
        return linear(forward(*arguments), weight, bias)

    operator = custom_op(name, run, schema=f"(Tensor weight, Tensor? bias, {schema}) -> Tensor")

    @operator.register_fake
    def _(weight: Tensor, bias: Tensor | None, x: Tensor, *arguments: Any) -> Tensor:
        return x.new_empty((*x.shape[:-1], weight.shape[0]))

    # Two operations for a multiply-add; that of the backward pass are matrix products of torch.
    @register_flop_formula(getattr(torch.ops.gatedvision, name))
    def _(weight: torch.Size, bias: torch.Size | None, x: torch.Size, *arguments: Any, **_: Any) -> int:
        return 2 * x[:-1].numel() * weight.numel()

    def save(ctx: Any, inputs: tuple, output: Tensor) -> None:
        weight, bias, *arguments = inputs
        tensors = [a for a in arguments if isinstance(a, Tensor)]
        ctx.options = arguments[len(tensors) :]
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.save_for_backward(weight, *tensors)

    def differentiate(backward: Callable[..., tuple[Tensor, ...]], ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *tensors = ctx.saved_tensors
        *grads, y = backward(grad @ weight.to(grad.dtype), *tensors, *ctx.options)
        grads = [g.to(tensor.dtype) for g, tensor in zip(grads, tensors, strict=True)]
        grad = grad.reshape(-1, grad.shape[-1])
        grad_weight = (grad.T @ y.reshape(-1, y.shape[-1])).to(weight.dtype) if ctx.needs_input_grad[0] else None
        grad_bias = None
        if ctx.bias_dtype is not None and ctx.needs_input_grad[1]:
            # A compiler makes a kernel of its own for the sum.
            traced = isinstance(backward, CustomOpDef)
            grad_bias = (grad.float().sum(0) if traced else column_sum(grad)).to(ctx.bias_dtype)
        return grad_weight, grad_bias, *grads, *[None for _ in ctx.options]

    return two_ways(operator, run, backward_operator, backward, save, differentiate)
