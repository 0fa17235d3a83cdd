"""The gated MLP of the ViG families."""

from typing import Any

import torch
from timm.layers import register_notrace_function
from torch import Tensor, nn

from gatedvision.layers._autocast import to_autocast_dtype
from gatedvision.layers._hooks import are_plain
from gatedvision.layers._recompute import recompute_if_compiled
from gatedvision.layers.linear import Linear
from gatedvision_kernels import swiglu, swiglu_mlp, swiglu_mlp_reference


# torch.fx keeps functions whole only if their names begin with a letter.
@register_notrace_function
def apply_swiglu_mlp(x: Tensor, weight_in: Tensor, weight_out: Tensor) -> Tensor:
    """Call the operator: a leaf for torch.fx, plain torch in TorchScript; autocast applies to ``x``."""
    if torch.jit.is_scripting():
        return swiglu_mlp_reference(x, weight_in, weight_out)
    else:
        return swiglu_mlp(to_autocast_dtype(x), weight_in, weight_out)


def swiglu_width(dim: int, multiple: int) -> int:
    """Return 8/3 of ``dim``, rounded up to a multiple of ``multiple``: as many weights as a plain 4x MLP."""
    return -(-(8 * dim // 3) // multiple) * multiple


class SwiGluMlp(nn.Module):
    """``proj_out(silu(gate) * value)``, gate and value from one linear layer (Shazeer, arXiv:2002.05202).

    What is hidden would be a third of all that training a ViG keeps. The kernels compute it again instead, and where
    there are none compiled training does.

    Args:
        dim: channels of input and output.
        hidden_dim: channels of gate and of value.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(self, dim: int, hidden_dim: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.proj_in = Linear(dim, 2 * hidden_dim, bias=False, device=device, dtype=dtype)
        self.proj_out = Linear(hidden_dim, dim, bias=False, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        if torch.jit.is_scripting():
            return self._map(x)
        else:
            return recompute_if_compiled(self._map, x)

    def _map(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            if not are_plain(self.proj_in, self.proj_out):
                return self.proj_out(swiglu(self.proj_in(x)))
        return apply_swiglu_mlp(x, self.proj_in.weight, self.proj_out.weight)
