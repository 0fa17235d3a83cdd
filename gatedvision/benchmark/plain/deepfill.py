"""DeepFill v2 in plain PyTorch (arXiv:1806.03589).

Shapes: h, w size of the map at half resolution within the attention, L = h w its pixels; queries p take from keys q.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedvision.layers.contextual_attention import MIN_NORM, ContextualAttention
from gatedvision.layers.gated_conv import GatedConv2d, GatedUpsample2d
from gatedvision.layers.resize_nearest import resize_nearest_aligned
from gatedvision.models.deepfillv2 import MULTIPLE, DeepFillV2

Attention = Callable[[ContextualAttention, Tensor, Tensor], Tensor]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": F.elu_,
    "relu": F.relu_,
    "leaky_relu": partial(F.leaky_relu_, negative_slope=0.2),
    "identity": lambda x: x,
}


def plain_deepfill(model: DeepFillV2) -> dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """Return the forward pass with channels first and last, attention by matrix products or by convolutions.

    It takes images of sides that need no padding, and no sketch.

    Args:
        model: whose parameters are used, in evaluation.
    """
    first, last = torch.contiguous_format, torch.channels_last
    return {
        "channels first, products": partial(_run, model, attend_by_products, first),
        "channels last, products": partial(_run, model, attend_by_products, last),
        "channels first, convolutions": partial(_run, model, attend_by_convolutions, first),
    }


def _run(
    model: DeepFillV2, attention: Attention, memory_format: torch.memory_format, image: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    if any(side % MULTIPLE for side in image.shape[2:]):
        raise ValueError(f"sides must be multiples of {MULTIPLE}, got {tuple(image.shape)}")
    hole = (mask > 0.5).to(image.dtype)
    image = image * (1 - hole)
    guides = [torch.ones_like(hole), hole]
    x = torch.cat([image, *guides], 1).contiguous(memory_format=memory_format)
    for part in (model.coarse.encoder, model.coarse.dilated, model.coarse.decoder):
        x = _run_layers(part, x)
    coarse = torch.tanh(x)
    filled = torch.where(hole > 0, coarse, image)
    if model.guided_refinement:
        filled = torch.cat([filled, *guides], 1)
    filled = filled.contiguous(memory_format=memory_format)
    if model.padding == "same":
        quarter = resize_nearest_aligned(hole, hole.shape[2] // 4, hole.shape[3] // 4)
    else:
        quarter = hole[:, :, ::4, ::4]
    refine = model.refine
    context = _run_layers(refine.dilated, _run_layers(refine.encoder, filled))
    borrowed = attention(refine.attention, _run_layers(refine.attention_encoder, filled), quarter)
    borrowed = _run_layers(refine.attention_decoder, borrowed.contiguous(memory_format=memory_format))
    return coarse, torch.tanh(_run_layers(refine.decoder, torch.cat([context, borrowed], 1)))


def _run_layers(layers: nn.Sequential, x: Tensor) -> Tensor:
    for layer in layers:
        x = _gate(layer, x) if isinstance(layer, GatedConv2d) else layer(x)
    return x


def _gate(layer: GatedConv2d, x: Tensor) -> Tensor:
    if isinstance(layer, GatedUpsample2d):
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    value, gate = layer.convolve(x, layer.weight, layer.bias).chunk(2, 1)
    return ACTIVATIONS[layer.activation](value) * torch.sigmoid(gate)


def attend_by_products(attention: ContextualAttention, x: Tensor, mask: Tensor) -> Tensor:
    """Fill maps ``[B, C, 2h, 2w]`` whose holes are 1 in ``[B, 1, 2h, 2w]`` by products of unfolded patches."""
    small = _halve(attention, x)
    height, width = small.shape[2:]
    patches = F.unfold(small, 3, padding=1)
    keys = patches / torch.linalg.vector_norm(patches, dim=1, keepdim=True).clamp_min(MIN_NORM)
    scores = patches.transpose(1, 2) @ keys
    if attention.fuse:
        scores = _swap(_add_diagonal(scores), height, width)
        scores = _swap(_add_diagonal(scores), width, height)
    weights = _weigh(attention, scores, _allowed(attention, mask), -1)
    values = F.unfold(x, 4, padding=1, stride=2)
    return _divide(attention, F.fold(values @ weights.transpose(1, 2), x.shape[2:], 4, padding=1, stride=2))


def attend_by_convolutions(attention: ContextualAttention, x: Tensor, mask: Tensor) -> Tensor:
    """Do as :func:`attend_by_products` does, image after image, by convolutions whose kernels are patches."""
    small = _halve(attention, x)
    height, width = small.shape[2:]
    diagonal = torch.eye(3, dtype=x.dtype).view(1, 1, 3, 3)
    filled = []
    for image, halved, allowed in zip(x.split(1), small.split(1), _allowed(attention, mask), strict=True):
        keys = F.unfold(halved, 3, padding=1)[0].T
        keys = keys / torch.linalg.vector_norm(keys, dim=1, keepdim=True).clamp_min(MIN_NORM)
        # [1, L, h, w], keys before queries.
        scores = F.conv2d(halved, keys.unflatten(1, (-1, 3, 3)), padding=1).flatten(2)
        if attention.fuse:
            scores = _swap(F.conv2d(scores.unsqueeze(0), diagonal, padding=1).squeeze(0), height, width)
            scores = _swap(F.conv2d(scores.unsqueeze(0), diagonal, padding=1).squeeze(0), width, height)
        weights = _weigh(attention, scores, allowed.view(1, -1, 1), 1).unflatten(2, (height, width))
        values = F.unfold(image, 4, padding=1, stride=2)[0].T.unflatten(1, (-1, 4, 4))
        filled.append(F.conv_transpose2d(weights, values, stride=2, padding=1))
    return _divide(attention, torch.cat(filled))


def _halve(attention: ContextualAttention, x: Tensor) -> Tensor:
    if attention.resize == "aligned":
        return resize_nearest_aligned(x, x.shape[2] // 2, x.shape[3] // 2)
    return x[:, :, ::2, ::2]


def _allowed(attention: ContextualAttention, mask: Tensor) -> Tensor:
    """Return 1 for keys without a hole and 0 for others, ``[B, 1, L]``."""
    holes = F.max_pool2d(_halve(attention, mask), 3, stride=1, padding=1)
    allowed = (holes <= 0).to(mask.dtype).flatten(2)
    return allowed[:1].expand_as(allowed) if attention.first_mask_only else allowed


def _add_diagonal(scores: Tensor) -> Tensor:
    """Add to each score of ``[B, L, L]`` those one step on and one back along both axes."""
    fused = scores.clone()
    fused[:, 1:, 1:] += scores[:, :-1, :-1]
    fused[:, :-1, :-1] += scores[:, 1:, 1:]
    return fused


def _swap(scores: Tensor, height: int, width: int) -> Tensor:
    """Count both axes of ``[B, L, L]``, rows of ``width`` so far, along columns."""
    scores = scores.unflatten(2, (height, width)).unflatten(1, (height, width))
    return scores.permute(0, 2, 1, 4, 3).flatten(3).flatten(1, 2)


def _weigh(attention: ContextualAttention, scores: Tensor, allowed: Tensor, dim: int) -> Tensor:
    if attention.masked_scores == "zero":
        return torch.softmax(scores * (attention.softmax_scale * allowed), dim) * allowed
    scores = (attention.softmax_scale * scores).masked_fill(allowed == 0, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, dim) * allowed


def _divide(attention: ContextualAttention, y: Tensor) -> Tensor:
    if attention.overlap == "constant":
        return y / 4
    height, width = y.shape[2:]
    ones = y.new_ones(1, 16, height * width // 4)
    return y / F.fold(ones, (height, width), 4, padding=1, stride=2)
