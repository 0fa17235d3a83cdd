"""MSViT in plain PyTorch (arXiv:2307.02321): timm's blocks on the tokens of two scales that the gate chose.

Shapes: B images, T tokens of both scales, L active ones, C channels.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from gatedvision.layers.mixed_scale_tokenizer import join_tokens, pad_to_regions, shrink
from gatedvision.models.msvit import MixedScaleTokens

Blocks = Callable[[MixedScaleTokens, Tensor, Tensor], Tensor]


def plain_msvit(model: MixedScaleTokens) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the forward pass with images padded to the fullest of the batch, under a mask, and one after the other.

    Args:
        model: whose parameters are used, in evaluation.

    Raises:
        ValueError: if it pools anything but the class token.
    """
    if model.global_pool != "token" or model.attn_pool is not None:
        raise ValueError(f"the plain form is for the class token, got global_pool {model.global_pool!r}")
    forms: dict[str, Blocks] = {"padded, mask": run_padded, "image after image": run_one_by_one}
    return {name: partial(_run, model, blocks) for name, blocks in forms.items()}


def _run(model: MixedScaleTokens, blocks: Blocks, image: Tensor) -> Tensor:
    image, grid = pad_to_regions(image, model.coarse)
    fine, coarse = model.embed_patches(image), model.embed_patches(shrink(image, model.ratio))
    choice = model.gate(coarse, grid).coarse
    prefix = [token for token in (model.cls_token, model.reg_token) if token is not None]
    joined = (coarse, fine, prefix, model.pos_embed, model.patch_embed.grid_size, grid, model.ratio)
    tokens = model.norm_pre(join_tokens(*joined, not model.no_embed_class))
    regions = (~choice).view(-1, *grid).repeat_interleave(model.ratio, 1).repeat_interleave(model.ratio, 2)
    active = torch.cat([choice.new_ones(len(choice), model.num_prefix_tokens), choice, regions.flatten(1)], 1)
    return model.forward_head(model.norm(blocks(model, tokens, active)))


def run_padded(model: MixedScaleTokens, tokens: Tensor, active: Tensor) -> Tensor:
    """Run the blocks on the active ones of ``[B, T, C]``, and return the prefix tokens."""
    counts = active.sum(1)
    length = int(counts.max())
    order = torch.argsort(active.to(torch.uint8), dim=1, descending=True, stable=True)[:, :length]
    x = tokens.gather(1, order.unsqueeze(-1).expand(-1, -1, tokens.shape[2]))
    mask = None
    if bool((counts < length).any()):
        mask = (torch.arange(length) < counts[:, None])[:, None, None]
    for block in model.blocks:
        x = block(x, attn_mask=mask)
    return x[:, : model.num_prefix_tokens]


def run_one_by_one(model: MixedScaleTokens, tokens: Tensor, active: Tensor) -> Tensor:
    """Run the blocks image after image; arguments are those of :func:`run_padded`."""
    found = []
    for rows, there in zip(tokens, active, strict=True):
        x = rows[there].unsqueeze(0)
        for block in model.blocks:
            x = block(x)
        found.append(x[:, : model.num_prefix_tokens])
    return torch.cat(found)
