"""Layer norm of channels-last maps, alone and at the joints of a residual stream."""

from typing import Any, Optional

import torch
from timm.layers import register_notrace_function
from torch import Tensor, nn

from gatedvision_kernels import (
    add_layer_norm,
    add_layer_norm_reference,
    layer_norm,
    layer_norm_reference,
)

# The output of the last branch with the scales of its channels, both missing at first, and the sum of everything
# before it: [B, H, W, C], [C] and [B, H, W, C].
Stream = tuple[Optional[Tensor], Optional[Tensor], Tensor]


# torch.fx keeps functions whole only if their names begin with a letter.
@register_notrace_function
def apply_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Call the operator: a leaf for torch.fx, plain torch in TorchScript."""
    if torch.jit.is_scripting():
        return layer_norm_reference(x, weight, bias, eps)
    else:
        return layer_norm(x, weight, bias, eps=eps)


@register_notrace_function
def apply_add_layer_norm(
    x: Tensor, residual: Tensor, scale: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Call the operator: a leaf for torch.fx, plain torch in TorchScript."""
    if torch.jit.is_scripting():
        return add_layer_norm_reference(x, residual, scale, weight, bias, eps)
    else:
        return add_layer_norm(x, residual, scale, weight, bias, eps=eps)


@register_notrace_function
def widen_like(x: Tensor, parameter: Tensor) -> Tensor:
    """Convert to a dtype that holds both: in autocast, where parameters are wider than maps, to theirs."""
    return x.to(torch.promote_types(x.dtype, parameter.dtype))


def join(stream: Stream) -> Tensor:
    """Add the last branch to the stream and return the sum, ``[B, H, W, C]``."""
    branch, scale, residual = stream
    if branch is None or scale is None:
        return residual
    return residual + scale * branch


class LayerNorm(nn.LayerNorm):
    """Layer norm over the channels of a channels-last map, which keeps its dtype also in autocast.

    Args:
        dim: channels.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(self, dim: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__(dim, eps=1e-6, device=device, dtype=dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``[..., C]``."""
        return apply_layer_norm(input, self.weight, self.bias, self.eps)


class AddLayerNorm(LayerNorm):
    """Add the last branch to the stream and normalise the sum, in one pass over the memory.

    The stream is kept as wide as the parameters, which in autocast is wider than the branches.
    """

    def forward(self, stream: Stream) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the normalised sum and the sum, ``[..., C]`` each."""
        branch, scale, residual = stream
        if branch is None or scale is None:
            normed = apply_layer_norm(residual, self.weight, self.bias, self.eps)
            return normed, widen_like(residual, self.weight)
        return apply_add_layer_norm(branch, residual, scale, self.weight, self.bias, self.eps)
