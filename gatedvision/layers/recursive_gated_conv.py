"""The token mixer of HorNet: interactions of high order from gates that a depthwise convolution computes.

Shapes: B batch, H and W sides of the map, C channels, n order; d_k = C / 2^(n - 1 - k) the width of step k, from
the narrowest, d_0, to d_(n-1) = C; S = 2C - d_0 the sum of the widths.
"""

from typing import Any, Optional

import torch
from timm.layers import register_notrace_function
from torch import Tensor, nn

from gatedvision.layers._hooks import are_plain
from gatedvision.layers.depthwise_conv import DepthwiseConv
from gatedvision.layers.global_filter import GlobalLocalFilter
from gatedvision.layers.linear import Linear
from gatedvision_kernels import recursive_gate, recursive_gate_reference

# Published parameter names of the layer, as (pattern, replacement) on the part below it.
PUBLISHED_GATED_CONV_NAMES = (
    (r"(?:pws|projs)\.", "projs."),
    (r"dwconv\.dw\.", "spatial.conv_dw."),
    (r"dwconv\.(pre|post)_norm\.", r"spatial.norm_\1."),
    (r"dwconv\.", "spatial."),
)


# torch.fx keeps functions whole only if their names begin with a letter.
@register_notrace_function
def gate_recursively(x: Tensor, gates: Tensor, weights: list[Tensor], biases: list[Tensor], scale: float) -> Tensor:
    """Call the operator: a leaf for torch.fx, plain torch in TorchScript.

    Args:
        x: ``[..., d_0]``.
        gates: ``[..., S]``, those of the narrowest step first.
        weights: ``[d_k, d_(k-1)]`` for k = 1 to n - 1.
        biases: ``[d_k]`` for k = 1 to n - 1.
        scale: multiplies the gates.

    Returns:
        ``[..., d_(n-1)]``.
    """
    weight = torch.cat([weight.flatten() for weight in weights]) if len(weights) > 0 else x.new_empty([0])
    bias = torch.cat(biases) if len(biases) > 0 else x.new_empty([0])
    if torch.jit.is_scripting():
        return recursive_gate_reference(x, gates, weight, bias, scale)
    else:
        return recursive_gate(x, gates.to(x.dtype), weight, bias, scale=scale)


class RecursiveGatedConv(nn.Module):
    """Recursive gated convolution, gnConv (HorNet, arXiv:2207.14284, section 3.1).

    One projection gives a narrow vector and, through one depthwise operator, all gates; the vector passes
    through ``order`` products with them. These are the only non-linearity.

    Args:
        dim: channels of the output, a multiple of ``2 ** (order - 1)``.
        order: number of products.
        in_dim: channels of the input, ``dim`` by default.
        kernel_size: side of the depthwise kernel, pixels, odd.
        map_size: compute the gates by a global-local filter instead, its filters stored for maps of so many
            rows and columns.
        scale: multiplies the gates; 1/3 in HorNet's backbones, 1 in its decoders.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if ``order`` is not positive or ``dim`` cannot be halved that often.
    """

    def __init__(
        self,
        dim: int,
        order: int,
        in_dim: Optional[int] = None,
        kernel_size: int = 7,
        map_size: Optional[tuple[int, int]] = None,
        scale: float = 1.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if order < 1:
            raise ValueError(f"order must be positive, got {order}")
        if dim % 2 ** (order - 1):
            raise ValueError(f"dim must be a multiple of {2 ** (order - 1)} for order {order}, got {dim}")
        dd = {"device": device, "dtype": dtype}
        widths = [dim // 2 ** (order - 1 - k) for k in range(order)]
        self.widths = [widths[0], sum(widths)]
        self.step_widths = widths
        self.scale = scale
        self.proj_in = Linear(dim if in_dim is None else in_dim, sum(self.widths), **dd)
        if map_size is None:
            self.spatial = DepthwiseConv(sum(widths), kernel_size, **dd)
        else:
            self.spatial = GlobalLocalFilter(sum(widths), map_size, **dd)
        self.projs = nn.ModuleList(Linear(widths[k], widths[k + 1], **dd) for k in range(order - 1))
        self.proj_out = Linear(dim, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, H, W, C]`` to ``[B, H, W, dim]``, channels last."""
        x, gates = self.proj_in(x).split(self.widths, dim=-1)
        gates = self.spatial(gates)
        if not torch.jit.is_scripting():
            if not are_plain(*self.projs):
                return self.proj_out(self._call_projs(x, gates))
        weights: list[Tensor] = [proj.weight for proj in self.projs]  # pyright: ignore[reportAssignmentType]
        biases: list[Tensor] = [proj.bias for proj in self.projs]  # pyright: ignore[reportAssignmentType]
        return self.proj_out(gate_recursively(x, gates, weights, biases, self.scale))

    @torch.jit.unused
    def _call_projs(self, x: Tensor, gates: Tensor) -> Tensor:
        """Compute the same by calling the layers, which have hooks or were replaced."""
        first, *steps = (gates * self.scale).split(self.step_widths, dim=-1)
        y = x * first
        for proj, step in zip(self.projs, steps, strict=True):
            y = proj(y) * step
        return y
