"""The token mixer of both ViG families: bidirectional gated linear attention beside a local branch.

Shapes: B batch, H and W sides of the map, L = H * W tokens in raster order, D channels, N heads,
K query/key width of a head, V value width of a head.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor, nn

from gatedvision.layers._recompute import recompute_if_compiled
from gatedvision.layers.depthwise_conv import DepthwiseConv
from gatedvision.layers.linear import Linear
from gatedvision_kernels import (
    bidirectional_gla,
    bidirectional_gla_reference,
    gated_norm_mix,
    gated_norm_mix_reference,
)

# Published parameter names of the mixer, as (pattern, replacement) on the part below the mixer.
PUBLISHED_MIXER_NAMES = (
    (r"in_proj\.0\.", "conv_dw."),
    (r"qkv_proj\.", "proj_qkv."),
    (r"gk_proj\.", "proj_decay."),
    (r"g_proj\.", "proj_gate."),
    (r"g_norm\.weight", "global_scale"),
    (r"l_norm\.weight", "local_scale"),
    (r"o_proj\.", "proj_out."),
)


# torch.fx keeps functions whole only if their names begin with a letter.
@register_notrace_function
def attend(query: Tensor, key: Tensor, value: Tensor, log_decay_forward: Tensor, log_decay_backward: Tensor) -> Tensor:
    """Call the operator: a leaf for torch.fx, plain torch in TorchScript."""
    if torch.jit.is_scripting():
        return bidirectional_gla_reference(query, key, value, log_decay_forward, log_decay_backward)
    else:
        return bidirectional_gla(query, key, value, log_decay_forward, log_decay_backward)


@register_notrace_function
def mix_branches(
    global_branch: Tensor,
    local_branch: Tensor,
    gate: Tensor,
    global_scale: Tensor,
    local_scale: Tensor,
    eps: float,
    activation: str,
) -> Tensor:
    """Call the operator: a leaf for torch.fx, plain torch in TorchScript."""
    if torch.jit.is_scripting():
        return gated_norm_mix_reference(global_branch, local_branch, gate, global_scale, local_scale, eps, activation)
    else:
        return gated_norm_mix(
            global_branch, local_branch, gate, global_scale, local_scale, eps=eps, activation=activation
        )


@register_notrace_function
def log_sigmoid(x: Tensor) -> Tensor:
    """Return the logarithm of the sigmoid; a leaf for torch.fx.

    On a CPU torch's own function goes number by number, and takes several times as long as its parts.
    """
    if x.is_cuda:
        return F.logsigmoid(x)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    # At 0 the minimum has a gradient of a half, as the function has.
    below = torch.minimum(wide, wide.new_zeros(()))
    return (below - torch.log(1 + torch.exp(-wide.abs()))).to(x.dtype)


class GatedLinearAttention(nn.Module):
    """Mix the tokens of a map in both raster directions, gated against a local branch (ViG, arXiv:2405.18425).

    A depthwise convolution gives the local branch; queries, keys, values and the per-channel
    decays of the two directions are linear in it. The attention's output and the local branch
    are normed per head and mixed by an input-dependent gate.

    Compiled training does not keep the decays, the gate and the mixed branches: they take little to compute again, and
    are a third of what the mixer would keep.

    Args:
        dim: channels, a multiple of ``2 * num_heads``.
        num_heads: attention heads; a head has ``dim / num_heads`` values and half as many keys.
        silu: apply SiLU to the local branch and to the mixed branches, as ViG-T does.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if ``dim`` does not divide into the heads.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        silu: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if dim % (2 * num_heads):
            raise ValueError(f"dim must be a multiple of 2 * num_heads, got dim={dim} and num_heads={num_heads}")
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.key_dim = dim // 2 // num_heads
        self.value_dim = dim // num_heads
        # At logits of 0 a state decays to half in 16 tokens.
        self.decay_divisor = 16.0
        self.eps = 1e-6
        self.activation = "silu" if silu else "identity"

        self.conv_dw = DepthwiseConv(dim, 3, bias=False, eager_kernel=False, **dd)
        self.act = nn.SiLU() if silu else nn.Identity()
        self.proj_qkv = Linear(dim, 2 * dim, bias=False, **dd)
        self.proj_decay = nn.Sequential(Linear(dim, 16, bias=False, **dd), Linear(16, dim, **dd))
        self.proj_gate = Linear(dim, dim, **dd)
        self.global_scale = nn.Parameter(torch.ones(self.value_dim, **dd))
        self.local_scale = nn.Parameter(torch.ones(self.value_dim, **dd))
        self.proj_out = Linear(dim, dim, bias=False, **dd)

    def reset_parameters(self) -> None:
        """Draw all weights by Xavier's rule, as small as published (gain ``2 ** -2.5``)."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.xavier_uniform_(module.weight, gain=2**-2.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.ones_(self.global_scale)
        nn.init.ones_(self.local_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Mix ``[B, H, W, D]``, channels last."""
        height, width = x.shape[1], x.shape[2]
        local = self.act(self.conv_dw(x)).flatten(1, 2)

        keys, values = [self.num_heads, self.key_dim], [self.num_heads, self.value_dim]
        half = self.num_heads * self.key_dim
        query, key, value = self.proj_qkv(local).split([half, half, 2 * half], dim=-1)
        if torch.jit.is_scripting():
            log_decay = self._decay(local)
        else:
            log_decay = recompute_if_compiled(self._decay, local)
        log_decay_forward, log_decay_backward = log_decay.split([half, half], dim=-1)
        attended = attend(
            query.unflatten(-1, keys),
            key.unflatten(-1, keys),
            value.unflatten(-1, values),
            log_decay_forward.unflatten(-1, keys),
            log_decay_backward.unflatten(-1, keys),
        )
        if torch.jit.is_scripting():
            mixed = self._mix(attended, local)
        else:
            mixed = recompute_if_compiled(self._mix, attended, local)
        return mixed.unflatten(1, [height, width])

    def _decay(self, local: Tensor) -> Tensor:
        """Return the log-decays of both directions, ``[B, L, D]``."""
        return log_sigmoid(self.proj_decay(local)) / self.decay_divisor

    def _mix(self, attended: Tensor, local: Tensor) -> Tensor:
        """Mix ``[B, L, N, V]`` and ``[B, L, D]``: ``[B, L, D]``."""
        values = [self.num_heads, self.value_dim]
        mixed = mix_branches(
            attended,
            local.unflatten(-1, values),
            self.proj_gate(local).unflatten(-1, values),
            self.global_scale,
            self.local_scale,
            self.eps,
            self.activation,
        )
        return self.proj_out(mixed.flatten(2))
