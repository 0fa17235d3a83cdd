"""timm's attention, over tokens of images that differ in their number."""

from functools import cache
from typing import Any, Optional, Union

import torch
import torch.nn.functional as F
from timm.layers import Attention, register_notrace_module
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gatedvision.layers.key_gated_attention import key_gated_attention
from gatedvision.layers.token_packing import Packing


def take_over(target: nn.Module, source: nn.Module) -> None:
    """Give a module all that another has: its parameters, its parts and its settings, which both then share."""
    nn.Module.__init__(target)
    for name, value in source.__dict__.items():
        # What is added to one module or removed from it is not to change the other.
        target.__dict__[name] = value.copy() if isinstance(value, (dict, list, set)) else value


class MixedScaleAttention(Attention):
    """Attention that takes over another's parameters, and takes a :class:`Packing` in place of a mask.

    Without one it is timm's.

    Args:
        attention: whose parameters to use; both share them.
    """

    def __init__(self, attention: Attention) -> None:
        take_over(self, attention)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Tensor, attn_mask: Optional[Union[Tensor, Packing]] = None, is_causal: bool = False
    ) -> Tensor:
        """Map tokens to tokens of the same shape, ``[B, L, C]`` or ``[1, M, C]`` as the packing has them."""
        if not isinstance(attn_mask, Packing):
            return super().forward(x, attn_mask, is_causal)
        heads: Any = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        # [B, L, N, D] each.
        query, key, value = heads.unbind(2)
        query, key = self.q_norm(query), self.k_norm(key)
        y = attend(query, key, value, attn_mask, self.attn_drop.p if self.training else 0.0)
        y = self.norm(y.flatten(2))
        if self.gate is not None:
            y = y * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(y))


# A leaf for torch.fx. As a decorator it would hide the class from type checkers.
register_notrace_module(MixedScaleAttention)


def attend(query: Tensor, key: Tensor, value: Tensor, packing: Packing, dropout: float) -> Tensor:
    """Attend within each image, to its active tokens.

    Args:
        query: ``[B, L, N, D]`` or ``[1, M, N, D]``, N heads.
        key: the same.
        value: the same.
        packing: which rows belong to an image.
        dropout: of attention weights, 0 to 1; only for rows ``[B, L]``.

    Returns:
        As ``query``.
    """
    if query.dtype != value.dtype:
        # Norms of queries and keys leave autocast's dtype.
        query, key = query.to(value.dtype), key.to(value.dtype)
    if packing.form == "varlen":
        return _attend_varlen(query[0], key[0], value[0], packing).unsqueeze(0)
    if packing.form == "jagged":
        return _attend_jagged(query[0], key[0], value[0], packing).unsqueeze(0)
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    if packing.form == "flex":
        y: Any = _flex_attention(query.is_cuda)(query, key, value, block_mask=packing.block_mask)
    elif packing.gates is not None:
        gates = packing.gates.view(query.shape[0], query.shape[2])
        y = key_gated_attention(query, key, value, gates, dropout=dropout)
    else:
        mask = None if packing.active is None else packing.active.view(query.shape[0], 1, 1, query.shape[2])
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return y.transpose(1, 2)


def _attend_varlen(query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
    """Attend in one kernel over all images, ``[M, N, D]``."""
    from torch.nn.attention.varlen import varlen_attn

    # The fullest image differs from batch to batch, and kernels are chosen by this number: hence that of any image.
    longest, offsets = packing.layout.longest, packing.offsets
    assert offsets is not None
    limits = (offsets, offsets, longest, longest)
    return varlen_attn(query, key, value, *limits)  # pyright: ignore[reportReturnType]


def _attend_jagged(query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
    """Attend over a nested tensor of images, ``[M, N, D]``."""
    limits = {"offsets": packing.offsets, "min_seqlen": 1, "max_seqlen": packing.layout.longest}
    # On a CPU there is one way, and torch asks about GPUs before it takes it.
    on_cpu = query.device.type == "cpu"
    parts = [part.contiguous() if on_cpu else part for part in (query, key, value)]
    query, key, value = (torch.nested.nested_tensor_from_jagged(part, **limits).transpose(1, 2) for part in parts)
    if on_cpu:
        with sdpa_kernel(SDPBackend.MATH):
            y = F.scaled_dot_product_attention(query, key, value)
    else:
        y = F.scaled_dot_product_attention(query, key, value)
    return y.transpose(1, 2).values()


@cache
def _flex_attention(compiled: bool) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    # Not compiled, it makes the matrix of all scores.
    return torch.compile(flex_attention, dynamic=True) if compiled else flex_attention
