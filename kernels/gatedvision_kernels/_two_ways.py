"""The same launches for compilers and for eager calls.

A compiler needs a custom operator, which it does not look into. Calling one from Python costs more
time on the host than small kernels take on the GPU; an autograd function costs a fraction of it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.library import CustomOpDef


def two_ways(
    operator: CustomOpDef,
    forward: Callable[..., Any],
    backward_operator: Callable[..., Any],
    backward: Callable[..., Any],
    save: Callable[[Any, tuple, Any], None],
    differentiate: Callable[..., Any],
) -> Callable[..., Any]:
    """Make a custom operator differentiable, and return what to call in its place.

    Args:
        operator: custom operator around ``forward``.
        forward: launches the forward kernels.
        backward_operator: custom operator around ``backward``, or ``backward`` itself where it is torch's operations.
        backward: launches the backward kernels.
        save: takes context, inputs and output, and keeps what the backward needs in the context.
        differentiate: takes ``backward`` or its operator, the context and the gradients of the outputs;
            returns a gradient, or ``None``, for each input.

    Returns:
        A function of the operator's arguments, which runs the operator where torch is compiling and
        ``forward`` itself everywhere else.
    """

    class Eager(torch.autograd.Function):
        # With a setup_context of its own, torch would inspect the signature of forward at every call.
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            output = forward(*args)
            save(ctx, args, output)
            return output

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            return differentiate(backward, ctx, *grads)

    operator.register_autograd(partial(differentiate, backward_operator), setup_context=save)

    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling():
            return operator(*args)
        return Eager.apply(*args) if torch.is_grad_enabled() else forward(*args)

    return call
