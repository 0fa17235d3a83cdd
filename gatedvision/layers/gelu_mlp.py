"""The perceptron between two joints of a residual stream."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor, nn

from gatedvision.layers._hooks import are_plain
from gatedvision.layers.linear import Linear
from gatedvision_kernels import bias_gelu_linear
from gatedvision_kernels._linear import apply_linear


# torch.fx keeps functions whole only if their names begin with a letter.
@register_notrace_function
def apply_gelu_mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """Return ``weight2 gelu(weight1 x + bias1) + bias2``, on a GPU without keeping the GELU for the backward pass."""
    if not torch.jit.is_scripting():
        if x.is_cuda:
            return bias_gelu_linear(F.linear(x, weight1), bias1, weight2, bias2)
    return apply_linear(F.gelu(apply_linear(x, weight1, bias1)), weight2, bias2)


class GeluMlp(nn.Module):
    """Two linear layers with GELU between them.

    Args:
        dim: channels of input and output.
        hidden_dim: channels in between.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(self, dim: int, hidden_dim: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim, device=device, dtype=dtype)
        self.fc2 = Linear(hidden_dim, dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        if not torch.jit.is_scripting():
            if not are_plain(self.fc1, self.fc2):
                return self.fc2(F.gelu(self.fc1(x)))
        return apply_gelu_mlp(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
