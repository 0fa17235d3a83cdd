"""ViG and ViG-H in plain PyTorch (arXiv:2405.18425), on maps ``[B, H, W, D]``.

Shapes: B images, L tokens, N heads, K query/key width, V value width, T chunks of C tokens.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedvision.layers.conv_norm import ConvNorm
from gatedvision.layers.gated_linear_attention import GatedLinearAttention
from gatedvision.layers.swiglu import SwiGluMlp
from gatedvision.models.vig import RmsNorm, ViG
from gatedvision.models.vig_h import ViGH

Attention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
# In chunks this long decays seldom leave the range of float32.
CHUNKS = (16, 28, 49)


def plain_vig(model: Union[ViG, ViGH]) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the forward pass with the attention in chunks and, on ViG's few tokens, over all pairs and token by token.

    All but the last divide by decays, and overflow where these are very small.

    Args:
        model: whose parameters are used, in evaluation.
    """
    chunks: dict[str, Attention] = {f"chunks of {chunk}": partial(attend_in_chunks, chunk=chunk) for chunk in CHUNKS}
    if isinstance(model, ViGH):
        return {name: partial(_run_staged, model, attention) for name, attention in chunks.items()}
    attentions = {**chunks, "all pairs": attend_to_all_pairs, "recurrence": attend_token_by_token}
    return {name: partial(_run_plain, model, attention) for name, attention in attentions.items()}


def attend_to_all_pairs(query: Tensor, key: Tensor, value: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """Weigh every pair of tokens, whose decay is that up to one divided by that up to the other.

    Args:
        query: ``[B, N, L, K]``, scaled.
        key: ``[B, N, L, K]``.
        value: ``[B, N, L, V]``.
        forward: ``[B, N, L, K]``, logarithms of decays from left to right.
        backward: the same from right to left.

    Returns:
        ``[B, N, L, V]``.
    """
    prefix, suffix = _sums(forward, backward)
    return _weigh_pairs(query, key, prefix, suffix) @ value


def attend_in_chunks(
    query: Tensor, key: Tensor, value: Tensor, forward: Tensor, backward: Tensor, chunk: int
) -> Tensor:
    """Weigh pairs within chunks, and scan over the chunks; arguments are those of :func:`attend_to_all_pairs`."""
    length = query.shape[2]
    missing = -length % chunk
    if missing:
        query, key, value, forward, backward = (
            F.pad(x, (0, 0, 0, missing)) for x in (query, key, value, forward, backward)
        )
    query, key, value, forward, backward = (x.unflatten(2, (-1, chunk)) for x in (query, key, value, forward, backward))
    prefix, suffix = _sums(forward, backward)
    y = _weigh_pairs(query, key, prefix, suffix) @ value
    left, right = prefix[..., -1:, :], suffix[..., :1, :]
    from_left = _states((key * (left - prefix).exp()).mT @ value, left.exp().mT)
    added, decay = (key * (right - suffix).exp()).mT @ value, right.exp().mT
    from_right = _states(added.flip(2), decay.flip(2)).flip(2)
    # Both directions in one product.
    queries = torch.cat([query * prefix.exp(), query * suffix.exp()], -1)
    y = y + queries @ torch.cat([from_left, from_right], -2)
    return y.flatten(2, 3)[:, :, :length]


def attend_token_by_token(query: Tensor, key: Tensor, value: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """Follow the definition, once in each direction; arguments are those of :func:`attend_to_all_pairs`."""
    halves = []
    for gates, order in ((forward, range(query.shape[2])), (backward, reversed(range(query.shape[2])))):
        decay = gates.exp().unsqueeze(-1)
        state = value.new_zeros(*query.shape[:2], query.shape[3], value.shape[3])
        rows: dict[int, Tensor] = {}
        for i in order:
            state = torch.addcmul(state * decay[:, :, i], key[:, :, i, :, None], value[:, :, i, None, :])
            rows[i] = query[:, :, i, None, :] @ state
        halves.append(torch.cat([rows[i] for i in range(len(rows))], 2))
    return halves[0] + halves[1]


def _sums(forward: Tensor, backward: Tensor) -> tuple[Tensor, Tensor]:
    """Sum decays up to and with each token, and from each token on."""
    prefix, before = forward.cumsum(-2), backward.cumsum(-2)
    return prefix, before[..., -1:, :] - before + backward


def _weigh_pairs(query: Tensor, key: Tensor, prefix: Tensor, suffix: Tensor) -> Tensor:
    # Around the middle of the range the factors stay smallest and largest.
    first, last = prefix[..., -1:, :] / 2, suffix[..., :1, :] / 2
    earlier = (query * (prefix - first).exp()) @ (key * (first - prefix).exp()).mT
    later = (query * (suffix - last).exp()) @ (key * (last - suffix).exp()).mT
    return earlier.tril_() + later.triu_()


def _states(added: Tensor, decay: Tensor) -> Tensor:
    """Return the state that enters each chunk, ``[B, N, T, K, V]``."""
    states = [torch.zeros_like(added[:, :, 0])]
    for chunk in range(added.shape[2] - 1):
        states.append(torch.addcmul(added[:, :, chunk], states[-1], decay[:, :, chunk]))
    return torch.stack(states, 2)


def _run_plain(model: Any, attention: Attention, image: Tensor) -> Tensor:
    x = _embed(model.stem, F.silu, image)
    x = x + model.pos_embed(x)
    for block in model.stages:
        x = x + _mix(block.mixer, attention, _rms_norm(block.norm_mixer, x))
        x = x + _gated_mlp(block.mlp, _rms_norm(block.norm_mlp, x))
    return model.head(_rms_norm(model.norm, x).permute(0, 3, 1, 2))


def _run_staged(model: Any, attention: Attention, image: Tensor) -> Tensor:
    x = _embed(model.stem, F.gelu, image)
    for stage in model.stages:
        if not isinstance(stage.downsample, nn.Identity):
            x = _conv_norm(stage.downsample, x)
        for block in stage.blocks:
            x = x + _mix(block.mixer, attention, block.norm_mixer(x))
            x = x + _gated_mlp(block.mlp, block.norm_mlp(x))
    return model.head(model.norm(x).permute(0, 3, 1, 2))


def _embed(stem: Any, activate: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    return _conv_norm(stem.conv_norm2, activate(_conv_norm(stem.conv_norm1, image.permute(0, 2, 3, 1))))


def _conv_norm(layer: ConvNorm, x: Tensor) -> Tensor:
    return layer.norm(layer.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def _mix(mixer: GatedLinearAttention, attention: Attention, x: Tensor) -> Tensor:
    height, width, heads = x.shape[1], x.shape[2], mixer.num_heads
    weight = mixer.conv_dw.weight
    x = F.conv2d(x.permute(0, 3, 1, 2), weight, padding=1, groups=len(weight)).permute(0, 2, 3, 1).flatten(1, 2)
    silu = mixer.activation == "silu"
    local = F.silu(x) if silu else x
    query, key, value = (
        y.unflatten(-1, (heads, -1)).transpose(1, 2)
        for y in mixer.proj_qkv(local).split([heads * mixer.key_dim, heads * mixer.key_dim, heads * mixer.value_dim], 2)
    )
    logits = mixer.proj_decay(local)
    # The logarithm of the sigmoid; torch's own function takes several times as long on a CPU.
    gates = (logits.clamp(max=0) - torch.log(1 + torch.exp(-logits.abs()))) / mixer.decay_divisor
    forward, backward = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in gates.chunk(2, -1))
    y = attention(query * (mixer.key_dim**-0.5 / 2), key, value, forward, backward).transpose(1, 2)
    y = F.rms_norm(y, (mixer.value_dim,), mixer.global_scale, mixer.eps)
    own = F.rms_norm(local.unflatten(-1, (heads, -1)), (mixer.value_dim,), mixer.local_scale, mixer.eps)
    gate = torch.sigmoid(mixer.proj_gate(local)).unflatten(-1, (heads, -1))
    y = torch.lerp(own, y, gate)
    y = F.silu(y) if silu else y
    return mixer.proj_out(y.flatten(2)).unflatten(1, (height, width))


def _gated_mlp(mlp: SwiGluMlp, x: Tensor) -> Tensor:
    gate, value = mlp.proj_in(x).chunk(2, -1)
    return mlp.proj_out(F.silu(gate) * value)


def _rms_norm(norm: RmsNorm, x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.eps)
