"""MSViT: vision transformers on tokens of two scales, chosen region by region by a learned gate.

Paper: J. D. Havtorn, A. Royer, T. Blankevoort, B. Ehteshami Bejnordi, "MSViT: Dynamic Mixed-Scale Tokenization for
Vision Transformers", https://arxiv.org/abs/2307.02321 (ICCV 2023 workshops). The model was never released; what the
paper leaves open is decided here and said where it is.

A region of 32 pixels becomes one coarse token or four fine ones. Nothing is left out of the image, so that features
come back as a full grid. The transformer is timm's, any of its plain ones, and reads timm's weights.
"""

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any, Optional, Union

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import Attention, PatchEmbed, get_device_dtype
from timm.models import generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn as filter_vit
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gatedvision.layers.convert_layers import convert_layers
from gatedvision.layers.gate_losses import GateLoss
from gatedvision.layers.image_conv import ImageConv
from gatedvision.layers.linear import Linear
from gatedvision.layers.mixed_scale_attention import MixedScaleAttention, take_over
from gatedvision.layers.mixed_scale_gate import LastChoice, MixedScaleGate, Policy, resize_regions
from gatedvision.layers.mixed_scale_tokenizer import cells_of, join_tokens, lost_detail, pad_to_regions, shrink
from gatedvision.layers.token_packing import (
    FORMS,
    Layout,
    Packing,
    find_cells,
    pack_tokens,
    prefix_rows,
    unpack_tokens,
)
from gatedvision.models._intermediates import arrange_intermediates
from gatedvision.models._pretrained import StateDict, build_backbone, match_model

__all__ = ["LastChoice", "MSViT", "MixedScaleTokens"]

# What a transformer must have of timm, as it is done otherwise here or goes on behind it.
TIMMS_OWN = ("forward", "forward_features", "forward_head", "pool", "_pos_embed", "reset_classifier")


class MixedScaleTokens(VisionTransformer):
    """A plain vision transformer of timm on tokens of two scales (arXiv:2307.02321).

    It takes the transformer over: parameters have timm's names and are shared with it, the gate's are added as
    ``gate``. The attention of its blocks is replaced, by one that does the same without our tokens, and its linear
    layers and patch embedding by our classes of them; use the transformer through the model from then on.

    Images may have any size. They are padded with zeros, at the right and at the bottom, to whole regions; positions
    are resized to that. Features leave out cells that lie in the padding altogether. So a transformer computes what it
    did, with fine regions everywhere, at sizes of whole regions.

    In training with a gate that learns, attention is masked and the gradient of the choice is what it changes (see
    :func:`~gatedvision.layers.key_gated_attention.key_gated_attention`). Everywhere else only the tokens that are
    active are computed. A batch waits once for their number; with a budget, where every image has the same, shapes are
    static, which compilers, CUDA graphs and ``torch.export`` want. Exported without a budget, all tokens are computed
    under a mask.

    Args:
        vit: the transformer.
        coarse: side of a region, pixels, a multiple of the patch size.
        choice: who chooses, see :class:`~gatedvision.layers.mixed_scale_gate.MixedScaleGate`.
        budget: share of regions that are fine, 0 to 1, in every image; ``None`` lets the gate choose how many.
        packing: how images with different numbers of tokens share a batch where nothing is to be learned by the gate:
            ``"padded"`` to the fullest, with a mask; ``"varlen"``, one kernel over one sequence of all images (GPU,
            sixteen bits, torch 2.10); ``"jagged"``, nested tensors; ``"flex"``, FlexAttention; ``"dense"``, all tokens
            with a mask, which saves nothing; ``"auto"``, the fastest there is. Images that have the same number take
            none of the others but ``"dense"``.
        spare: share of the tokens beyond those of the fullest image that training keeps, so that the gate learns from
            what it did not choose; 1 trims nothing.
        hidden_dim: channels within the gate, half of the transformer's by default.
        temperature: of the gate's probability in training.
        noise: scale of the gate's noise in training, 0 for none.
        initial_logit: of the gate at the start, at which nearly all regions are coarse.
        gate_loss: what holds the gate at a share of fine regions in training, the arguments of
            :class:`~gatedvision.layers.gate_losses.GateLoss` without ``num_regions``, such as ``dict(target=0.25)``;
            see :meth:`auxiliary_losses`. ``None`` for nothing. With ``kind="gain"`` the gate predicts what fine regions
            gain, and ``initial_logit`` is 0.
        detail: tell the gate what a region loses when it is shrunk.

    Attributes:
        gate: the gate.
        gate_loss: its loss, with the parameters that this learns, or ``None``.

    Raises:
        ValueError: if the transformer is not a plain one, or an argument is out of range.
    """

    def __init__(
        self,
        vit: VisionTransformer,
        coarse: int = 32,
        choice: Union[str, Policy] = "gate",
        budget: Optional[float] = None,
        packing: str = "auto",
        spare: float = 0.5,
        hidden_dim: Optional[int] = None,
        temperature: float = 1.0,
        noise: float = 1.0,
        initial_logit: float = 3.0,
        gate_loss: Optional[Mapping[str, Any]] = None,
        detail: bool = False,
    ) -> None:
        check_transformer(vit)
        take_over(self, vit)
        self.coarse = check_side(coarse, self.patch_size)
        self.set_packing(packing)
        if not 0 <= spare <= 1:
            raise ValueError(f"spare is a share, 0 to 1, got {spare}")
        self.spare = spare
        dd: Any = get_device_dtype(vit)
        rows, columns = grid = self._native_grid()
        self.gate_loss = None if gate_loss is None else GateLoss(rows * columns, **gate_loss, **dd).train(vit.training)
        share = self.gate_loss.target if self.gate_loss is not None and self.gate_loss.kind == "gain" else None
        self.gate = MixedScaleGate(
            self.embed_dim, grid, hidden_dim, choice, budget, temperature, noise, initial_logit, share, detail, **dd
        ).train(vit.training)
        # timm takes what comes last for the classifier, such as for adaptive gradient clipping.
        self.head = self._modules.pop("head")
        convert_layers(self.patch_embed, nn.Conv2d, ImageConv)
        convert_layers(self.blocks, nn.Linear, Linear)
        for block in self.blocks:
            if not isinstance(block.attn, MixedScaleAttention):
                attention: Any = block.attn
                block.attn = MixedScaleAttention(attention)

    @property
    def patch_size(self) -> int:
        """Side of a fine patch, pixels."""
        return self.patch_embed.patch_size[0]

    @property
    def ratio(self) -> int:
        """Sides of a fine patch in that of a region."""
        return self.coarse // self.patch_size

    @property
    def last(self) -> LastChoice:
        """What the last forward pass left for losses and pictures: probability, choice and grid of regions."""
        return self.gate.last

    @property
    def token_counts(self) -> Tensor:
        """Tokens of each image in the last forward pass, without the prefix, ``[B]``.

        Raises:
            RuntimeError: if there was none.
        """
        coarse = self.last.coarse
        if coarse is None:
            raise RuntimeError("no tokens were counted: run the model first")
        return coarse.shape[1] + (self.ratio**2 - 1) * (~coarse).sum(1)

    def macs(
        self, token_counts: Union[float, Sequence[float], Tensor], grid: Optional[tuple[int, int]] = None
    ) -> Tensor:
        """Count the multiply-adds that images with so many tokens take, attention included.

        Args:
            token_counts: without the prefix, of one image or of several; a mean may be a fraction.
            grid: rows and columns of regions, to count what choosing takes, too: the gate, and the embedding of patches
                that are then not needed. By default only what the tokens take: their embedding, blocks and classifier.

        Returns:
            Numbers in the shape of ``token_counts``. The mean over a data set is that of its images, a little more than
            that of the mean count.
        """
        counts = torch.as_tensor(token_counts)
        counts = counts.double() if counts.is_floating_point() else counts.long()
        n = counts + self.num_prefix_tokens
        per_patch = self.patch_embed.proj.weight.numel()
        patches = counts
        total = torch.zeros_like(counts)
        for block in self.blocks:
            attention: Any = block.attn
            linear = sum(layer.weight.numel() for layer in block.modules() if isinstance(layer, nn.Linear))
            total = total + n * linear + 2 * n**2 * attention.num_heads * attention.head_dim
        if grid is not None:
            regions = grid[0] * grid[1]
            patches = torch.full_like(counts, regions * (1 + self.ratio**2))
            if self.gate.choice == "gate":
                total += regions * sum(x.weight.numel() for x in self.gate.mlp if isinstance(x, nn.Linear))
        if isinstance(self.head, nn.Linear):
            total = total + self.head.weight.numel()
        return total + per_patch * patches

    def image_costs(self) -> dict[str, Tensor]:
        """Tell what each image of the last forward pass cost.

        Returns:
            ``fine_share``, the share of fine regions, 0 to 1, ``tokens`` without the prefix, and ``GMACs``, billions of
            multiply-adds, the choice included: ``[B]`` each.

        Raises:
            RuntimeError: if there was none.
        """
        counts, last = self.token_counts, self.last
        assert last.coarse is not None
        gmacs = self.macs(counts, last.grid).double() / 1e9
        return {"fine_share": (~last.coarse).double().mean(1), "tokens": counts.double(), "GMACs": gmacs}

    def auxiliary_losses(self) -> dict[str, Tensor]:
        """Return what holds the gate at its share of fine regions, of the last forward pass in training.

        Returns:
            ``"auxiliary"``, which is what to add to the loss of the task, and its parts; see
            :class:`~gatedvision.layers.gate_losses.GateLoss`. Empty in evaluation, and where no gate learns.
        """
        probability = self.last.probability
        if self.gate_loss is None or not self.training or probability is None or not probability.requires_grad:
            return {}
        return self.gate_loss(probability)

    def set_choice(self, choice: Union[str, Policy] = "gate", budget: Optional[float] = None) -> None:
        """Change who chooses regions, and how many of them are fine; no weight changes.

        Args:
            choice: ``"gate"``, ``"random"``, ``"centre"``, ``"fine"``, ``"coarse"`` or a function.
            budget: share of fine regions, 0 to 1, in every image.

        Raises:
            ValueError: for another choice, or a budget that is missing, out of range or of no use.
        """
        self.gate.set_choice(choice, budget)

    def set_packing(self, packing: str) -> None:
        """Change how images with different numbers of tokens share a batch.

        Raises:
            ValueError: for another way.
        """
        if packing not in FORMS:
            raise ValueError(f"packing must be one of {', '.join(FORMS)}, got {packing!r}")
        self.packing = packing

    def embed_patches(self, x: Tensor) -> Tensor:
        """Embed patches of images ``[B, C, H, W]`` of whole patches, row by row: ``[B, N, C]``."""
        return self.patch_embed.norm(self.patch_embed.proj(x).flatten(2).transpose(1, 2))

    def tokenize(self, x: Tensor) -> tuple[Tensor, Packing]:
        """Choose tokens of images ``[B, C, H, W]``.

        Returns:
            Rows as blocks take them, ``[B, L, C]`` or ``[1, M, C]``, and what says where they are from.
        """
        size = cells_of(x, self.patch_size)
        x, grid = pad_to_regions(x, self.coarse)
        fine = self.embed_patches(x)
        coarse = self.embed_patches(shrink(x, self.ratio))
        told = self.gate.detail_embed is not None and self.gate.choice == "gate"
        choice = self.gate(coarse, grid, lost_detail(x, self.ratio, self.coarse) if told else None)
        prefix = [token for token in (self.cls_token, self.reg_token) if token is not None]
        old_grid: Any = self.patch_embed.grid_size
        tokens = join_tokens(coarse, fine, prefix, self.pos_embed, old_grid, grid, self.ratio, not self.no_embed_class)
        layout = Layout(choice, self.num_prefix_tokens, self.ratio, size)
        tokens, packing = pack_tokens(self.pos_drop(tokens), layout, self.packing, self.training, self.spare)
        return self.norm_pre(tokens), packing

    def _run(self, block: nn.Module, tokens: Tensor, packing: Packing) -> Tensor:
        if self.grad_checkpointing:
            return checkpoint(block, tokens, packing, use_reentrant=False)  # pyright: ignore[reportReturnType]
        return block(tokens, attn_mask=packing)

    def _run_all(self, x: Tensor) -> tuple[Tensor, Packing]:
        """Run all blocks on images ``[B, C, H, W]``; the last norm is still to come."""
        tokens, packing = self.tokenize(x)
        for block in self.blocks:
            tokens = self._run(block, tokens, packing)
        return tokens, packing

    def forward_features(self, x: Tensor, attn_mask: Optional[Tensor] = None, is_causal: bool = False) -> Tensor:
        """Map images ``[B, C, H, W]`` to tokens of the full grid, ``[B, P + h * w, C]``, prefix tokens first.

        The grid has h = H / patch and w = W / patch cells, rounded up; a coarse token is copied to all it covers.

        Raises:
            ValueError: for a mask, or causal attention.
        """
        refuse_masks(attn_mask, is_causal)
        tokens, packing = self._run_all(x)
        return unpack_tokens(self.norm(tokens), packing, find_cells(packing))

    # torch.fx keeps functions whole that the module of the root's forward knows: hence one here.
    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Classify images ``[B, C, H, W]``."""
        if self.global_pool != "token" or self.attn_pool is not None:
            return self.forward_head(self.forward_features(x))
        # The class token does not need the grid.
        tokens, packing = self._run_all(x)
        return self.forward_head(self.norm(prefix_rows(tokens, packing)))

    def forward_intermediates(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: Tensor,
        indices: Optional[Union[int, list[int]]] = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
        attn_mask: Optional[Tensor] = None,
        is_causal: bool = False,
    ) -> Any:
        """Collect what leaves chosen blocks, put back into the full grid.

        Args:
            x: images ``[B, C, H, W]``.
            indices: the blocks, negative from the end; a number for the last so many, ``None`` for all.
            return_prefix_tokens: return pairs of map and prefix tokens ``[B, P, C]``.
            norm: apply the last norm to all of them.
            stop_early: do not run blocks behind the last chosen one.
            output_fmt: ``"NCHW"`` for maps, ``"NLC"`` for tokens, ``[B, h * w, C]``.
            intermediates_only: leave out the final features.
            output_dict: return timm's dictionary of ``image_intermediates``, with ``image_intermediates_prefix`` if
                prefix tokens are asked for and with ``image_features`` unless left out.
            attn_mask: must be ``None``.
            is_causal: must be false.

        Returns:
            The list, after the final tokens ``[B, P + h * w, C]`` unless left out; or the dictionary.

        Raises:
            ValueError: for another ``output_fmt``, a mask, or causal attention.
        """
        refuse_masks(attn_mask, is_causal)
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt must be 'NCHW' or 'NLC', got {output_fmt!r}")
        wanted, last = feature_take_indices(len(self.blocks), indices)
        tokens, packing = self.tokenize(x)
        cells = find_cells(packing)
        grid = cells_of(x, self.patch_size)
        taps: list[Tensor] = []
        prefixes: list[Tensor] = []
        for index, block in enumerate(self.blocks[: last + 1] if stop_early else self.blocks):
            tokens = self._run(block, tokens, packing)
            if index not in wanted:
                continue
            full = unpack_tokens(self.norm(tokens) if norm else tokens, packing, cells)
            prefix, tap = full[:, : self.num_prefix_tokens], full[:, self.num_prefix_tokens :]
            if output_fmt == "NCHW":
                tap = tap.transpose(1, 2).unflatten(2, grid).contiguous()
            taps.append(tap)
            prefixes.append(prefix)
        if not return_prefix_tokens or not self.num_prefix_tokens:
            prefixes = []
        final = None if intermediates_only else unpack_tokens(self.norm(tokens), packing, cells)
        return arrange_intermediates(taps, prefixes, final, output_dict)

    def no_weight_decay(self) -> set[str]:
        """Name the tables of positions and prefix tokens."""
        return {*super().no_weight_decay(), "gate.pos_embed"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Sort parameters by depth for layer-wise learning rates; the gate, which is new, goes with the head."""
        return {
            "stem": r"^(?:cls_token|reg_token|pos_embed|patch_embed|norm_pre)",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm\.", (99999,))],
        }

    def set_input_size(
        self, img_size: Optional[tuple[int, int]] = None, patch_size: Optional[tuple[int, int]] = None
    ) -> None:
        """Make the tables of positions, the gate's included, for another size of image or patch, pixels.

        Raises:
            ValueError: if regions are no multiple of the patches.
        """
        if patch_size is not None:
            sides = (patch_size, patch_size) if isinstance(patch_size, int) else tuple(patch_size)
            if sides[0] != sides[1]:
                raise ValueError(f"patches must be square, got {sides}")
            check_side(self.coarse, sides[0])
        super().set_input_size(img_size=img_size, patch_size=patch_size)
        self.gate.set_grid(self._native_grid())
        if self.gate_loss is not None:
            rows, columns = self.gate.grid
            self.gate_loss.set_num_regions(rows * columns)

    def _native_grid(self) -> tuple[int, int]:
        sides: Any = self.patch_embed.img_size
        return -(-sides[0] // self.coarse), -(-sides[1] // self.coarse)


def refuse_masks(attn_mask: Optional[Tensor], is_causal: bool) -> None:
    """Check that timm's arguments for masked attention were left alone.

    Raises:
        ValueError: if they were not.
    """
    if attn_mask is not None or is_causal:
        raise ValueError(
            "tokens of two scales, chosen image by image, have no order that a mask could be of: leave it out"
        )


def check_side(coarse: int, patch_size: int) -> int:
    """Return the side of a region that is made of whole patches.

    Raises:
        ValueError: if it is not.
    """
    if coarse <= patch_size or coarse % patch_size:
        raise ValueError(f"coarse must be a multiple of the patch size {patch_size}, 2 times or more, got {coarse}")
    return coarse


def check_transformer(vit: nn.Module) -> None:
    """Check that a model is a plain vision transformer of timm.

    Raises:
        ValueError: if tokens of two scales cannot go through it.
    """
    name = type(vit).__name__
    if not isinstance(vit, VisionTransformer):
        raise ValueError(
            f"{name} is no VisionTransformer of timm: relative or rotary positions and windows need one grid; take a "
            f"plain one such as vit_small_patch16_224"
        )
    own = [method for method in TIMMS_OWN if getattr(type(vit), method) is not getattr(VisionTransformer, method)]
    if own:
        raise ValueError(f"{name} has {', '.join(own)} of its own, which would be lost; take a plain VisionTransformer")
    if type(vit.patch_embed) is not PatchEmbed:
        raise ValueError(f"patches are embedded by {type(vit.patch_embed).__name__}, two scales need timm's PatchEmbed")
    if vit.patch_embed.patch_size[0] != vit.patch_embed.patch_size[1] or vit.patch_embed.img_size is None:
        raise ValueError(f"patches must be square and img_size given, got patches of {vit.patch_embed.patch_size}")
    if not isinstance(vit.patch_drop, nn.Identity):
        raise ValueError("patch_drop_rate cannot go with a gate that chooses tokens; set it to 0")
    for index, block in enumerate(vit.blocks):
        attention = getattr(block, "attn", None)
        if type(block) not in (Block, ResPostBlock) or type(attention) not in (Attention, MixedScaleAttention):
            raise ValueError(
                f"block {index} is a {type(block).__name__} with {type(attention).__name__}; tokens of two scales go "
                f"through Block or ResPostBlock with Attention"
            )


class MSViT(MixedScaleTokens):
    """A vision transformer built for tokens of two scales.

    Args:
        coarse: side of a region, pixels.
        choice: who chooses, as in :class:`MixedScaleTokens`.
        budget: share of regions that are fine, in every image.
        packing: how images with different numbers of tokens share a batch.
        spare: share of the tokens beyond those of the fullest image that training keeps.
        hidden_dim: channels within the gate.
        temperature: of the gate's probability in training.
        noise: scale of the gate's noise in training.
        initial_logit: of the gate at the start.
        gate_loss: what holds the gate at a share of fine regions in training.
        detail: tell the gate what a region loses when it is shrunk.
        **kwargs: of timm's ``VisionTransformer``.

    Raises:
        ValueError: if an argument is out of range or does not go with the others.
    """

    def __init__(
        self,
        coarse: int = 32,
        choice: Union[str, Policy] = "gate",
        budget: Optional[float] = None,
        packing: str = "auto",
        spare: float = 0.5,
        hidden_dim: Optional[int] = None,
        temperature: float = 1.0,
        noise: float = 1.0,
        initial_logit: float = 3.0,
        gate_loss: Optional[Mapping[str, Any]] = None,
        detail: bool = False,
        **kwargs: Any,
    ) -> None:
        vit = VisionTransformer(**kwargs)
        super().__init__(
            vit,
            coarse,
            choice,
            budget,
            packing,
            spare,
            hidden_dim,
            temperature,
            noise,
            initial_logit,
            gate_loss,
            detail,
        )


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """Bring a state dict of ours, or of a plain transformer in timm's names, into the model's; positions are resized.

    Without a gate in it, the model's own gate stays. What a gate's loss learned stays behind: it belongs to one target.

    Args:
        state_dict: tensors by name, bare or under ``model``.
        model: the model to load them into.

    Raises:
        ValueError: if it is not a state dict of such a transformer.
    """
    assert isinstance(model, MixedScaleTokens)
    found: dict[str, Tensor] = filter_vit(dict(state_dict), model)
    own = model.state_dict()
    gate = {name: value for name, value in own.items() if name.startswith("gate.")}
    if not any(name.startswith("gate.") for name in found):
        found |= gate
    elif "gate.detail_embed" in gate:
        # A gate that was not told of detail makes nothing of it.
        found.setdefault("gate.detail_embed", torch.zeros_like(gate["gate.detail_embed"]))
    found = {name: value for name, value in found.items() if not name.startswith("gate_loss.")}
    found |= {name: value for name, value in own.items() if name.startswith("gate_loss.")}
    table = found.get("gate.pos_embed")
    if table is not None and table.shape[1] != model.gate.pos_embed.shape[1]:
        side = isqrt(table.shape[1])
        if side**2 != table.shape[1]:
            raise ValueError(
                f"gate.pos_embed has {table.shape[1]} regions, no square grid, and cannot be resized to "
                f"{model.gate.grid}"
            )
        found["gate.pos_embed"] = resize_regions(table, (side, side), model.gate.grid)
    return match_model(found, model)


SIZES = {
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
}


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (14, 14),
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "license": "apache-2.0",
        "paper_ids": "arXiv:2307.02321",
        "origin_url": "https://github.com/huggingface/pytorch-image-models",
        **kwargs,
    }


# Weights are those of plain transformers: with them, fine regions everywhere give their accuracy, and the gate, which
# makes nearly all regions coarse, is yet to be trained.
default_cfgs = generate_default_cfgs(
    {
        **{f"msvit_{size}.deit_in1k": _cfg(hf_hub_id=f"timm/deit_{size}_patch16_224.fb_in1k") for size in SIZES},
        **{
            f"msvit_{size}.augreg_in21k_ft_in1k": _cfg(
                hf_hub_id=f"timm/vit_{size}_patch16_224.augreg_in21k_ft_in1k",
                mean=(0.5, 0.5, 0.5),
                std=(0.5, 0.5, 0.5),
            )
            for size in SIZES
        },
    }
)


def _create_msvit(variant: str, pretrained: bool, overrides: dict[str, Any]) -> MSViT:
    model_args: dict[str, Any] = {"patch_size": 16, **SIZES[variant.removeprefix("msvit_")], **overrides}
    # Dense tasks read four maps, the last included.
    depth = model_args["depth"]
    levels = sorted({(quarter * depth + 3) // 4 - 1 for quarter in range(1, 5)})
    return build_backbone(MSViT, variant, pretrained, checkpoint_filter_fn, levels, **model_args)


@register_model
def msvit_tiny(pretrained: bool = False, **kwargs: Any) -> MSViT:
    """MSViT on ViT-Ti/16: regions of 32 pixels, 0.28 to 1.25 GMACs at 224 pixels."""
    return _create_msvit("msvit_tiny", pretrained, kwargs)


@register_model
def msvit_small(pretrained: bool = False, **kwargs: Any) -> MSViT:
    """MSViT on ViT-S/16: regions of 32 pixels, 1.1 to 4.6 GMACs at 224 pixels."""
    return _create_msvit("msvit_small", pretrained, kwargs)


@register_model
def msvit_base(pretrained: bool = False, **kwargs: Any) -> MSViT:
    """MSViT on ViT-B/16: regions of 32 pixels, 4.3 to 17.6 GMACs at 224 pixels."""
    return _create_msvit("msvit_base", pretrained, kwargs)
