"""V-MoE: vision transformers with sparse experts, whose compute is a dial at test time.

Papers: C. Riquelme, J. Puigcerver, B. Mustafa and others, "Scaling Vision with Sparse Mixture of Experts",
https://arxiv.org/abs/2106.05974 (NeurIPS 2021); ensembles of experts: https://arxiv.org/abs/2110.03360; experts that
choose: https://arxiv.org/abs/2202.09368; soft mixtures: https://arxiv.org/abs/2308.00951.
Published code (Apache-2.0) and weights: https://github.com/google-research/vmoe.

The transformer is timm's; some of its blocks have experts in place of their perceptron.
"""

from collections.abc import Iterator, Sequence
from math import isqrt, log
from typing import Any, Optional, Union

import torch
from timm.layers import LayerNorm, get_device_dtype, lecun_normal_
from timm.models import generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from gatedvision.layers.moe import MoeMlp, SoftMoeMlp
from gatedvision.layers.moe_routers import SoftRouter, TopKRouter
from gatedvision.models._intermediates import arrange_intermediates
from gatedvision.models._pretrained import StateDict, build_backbone, match_model
from gatedvision.models._vmoe_names import convert_published
from gatedvision.models._vmoe_parts import BlockMaker, CroppingPatchEmbed, check_pooling, resize_positions_aligned

__all__ = ["VMoE"]


class VMoE(VisionTransformer):
    """Vision transformer with experts in some of its blocks (arXiv:2106.05974).

    Images are routed in groups. A batch that is no multiple of a group makes smaller groups of equal size, down to one
    image: see :func:`~gatedvision.layers.moe_routing.cut_into_groups`. Where nothing is dropped, what an image comes
    to does not depend on its batch.

    After each forward pass in training, :meth:`auxiliary_losses` holds what is to be added to the loss of the task.

    Args:
        img_size: side or height and width for which the table of positions is made, pixels; images may have any other
            size, the positions are then resized.
        patch_size: side of a patch, pixels.
        in_chans: channels of the image.
        num_classes: classes of the head, 0 for none.
        global_pool: ``"token"`` for the class token, ``"avg"`` for the mean of the patches, ``""`` for none.
        embed_dim: channels of a token.
        depth: blocks.
        num_heads: attention heads.
        mlp_ratio: channels within perceptrons and experts, as a multiple of ``embed_dim``.
        class_token: put a class token before the patches.
        qk_norm: norm of queries and keys, with a scale and no bias, as in Soft MoE.
        representation_size: width of the layer with tanh before the head, 0 for none.
        expert_blocks: blocks with experts, counted from 0.
        num_experts: experts of such a block, of all members together.
        routing: ``"top_k"``: tokens choose experts; ``"expert_choice"``: experts choose tokens; ``"soft"``: slots are
            mixtures of all tokens of the image.
        num_selected: experts that a token chooses.
        capacity_factor: slots of all experts divided by what is to be placed, in training; 1.05 by default, and 1 if
            experts choose or slots mix. Where tokens choose, infinity drops nothing and pads nothing: experts then
            work on as many tokens as chose them.
        eval_capacity_factor: the same in evaluation; that of training by default.
        priority: who gets the slots in training: ``"vanilla"``, tokens in order, or ``"batch"``, the most decided
            tokens of the group.
        eval_priority: the same in evaluation; that of training by default.
        group_images: images that are routed together; 8 by default, 1 if experts choose.
        rounding: of the capacity, ``"ceil"`` or ``"round"``; the latter by default if experts choose.
        multiple_of: the capacity is raised to a multiple of it; 4 by default, 1 if experts choose.
        num_slots: slots of an expert for soft mixtures; by default what ``capacity_factor`` gives at ``img_size``.
        num_members: members of an ensemble, which share all but experts; the network then returns a row for each, and
            :meth:`average_members` their prediction.
        noise_std: deviation of the routers' noise in training, divided by the experts of a member.
        importance_weight: of the importance loss.
        load_weight: of the load loss.
        gshard_weight: of the GShard loss.
        balance: over what experts are balanced: each ``"group"``, or the whole ``"batch"`` of all processes.
        identical_experts: the experts of a block start from one draw, as published.
        act_layer: timm's name of the activation.
        drop_rate: dropout before the classifier, 0 to 1.
        pos_drop_rate: dropout after the positions, 0 to 1.
        proj_drop_rate: dropout after attention and in perceptrons, 0 to 1.
        attn_drop_rate: dropout of attention weights, 0 to 1.
        expert_drop_rate: dropout in experts, 0 to 1.
        drop_path_rate: probability of dropping a branch of the last block, rising linearly from 0 at the first.
        head_bias: the classifier's biases at the start, by default those of equal probabilities; -10 was published
            for ImageNet-21k.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if an argument is out of range or does not go with the others.
    """

    def __init__(
        self,
        img_size: Union[int, tuple[int, int]] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        class_token: bool = True,
        qk_norm: bool = False,
        representation_size: int = 0,
        expert_blocks: Sequence[int] = (1, 3, 5, 7, 9, 11),
        num_experts: int = 8,
        routing: str = "top_k",
        num_selected: int = 2,
        capacity_factor: Optional[float] = None,
        eval_capacity_factor: Optional[float] = None,
        priority: str = "vanilla",
        eval_priority: Optional[str] = None,
        group_images: Optional[int] = None,
        rounding: Optional[str] = None,
        multiple_of: Optional[int] = None,
        num_slots: int = 0,
        num_members: int = 1,
        noise_std: float = 1.0,
        importance_weight: float = 0.005,
        load_weight: float = 0.005,
        gshard_weight: float = 0.0,
        balance: str = "group",
        identical_experts: bool = True,
        act_layer: str = "gelu_tanh",
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        expert_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        head_bias: Optional[float] = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        check_pooling(global_pool, class_token)
        sides = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        if min(sides) < patch_size:
            raise ValueError(f"img_size {img_size} is smaller than a patch of {patch_size} pixels")
        if routing == "soft" and not num_slots:
            if capacity_factor == float("inf"):
                raise ValueError("capacity_factor must be finite where slots mix tokens, got inf")
            tokens = (sides[0] // patch_size) * (sides[1] // patch_size) + class_token
            num_slots = round(tokens * (1.0 if capacity_factor is None else capacity_factor) / num_experts)
        capacity = {
            "capacity_factor": capacity_factor,
            "eval_capacity_factor": eval_capacity_factor,
            "group_images": group_images,
            "rounding": rounding,
            "multiple_of": multiple_of,
        }
        make_block = BlockMaker(
            depth,
            expert_blocks,
            routing,
            num_members,
            router={
                "num_experts": num_experts,
                "noise_std": noise_std,
                **{name: value for name, value in capacity.items() if value is not None},
            },
            choice={
                "num_selected": num_selected,
                "priority": priority,
                "eval_priority": eval_priority,
                "importance_weight": importance_weight,
                "load_weight": load_weight,
                "gshard_weight": gshard_weight,
                "balance": balance,
            },
            num_slots=num_slots,
            experts={"act": act_layer, "drop": expert_drop_rate, "identical": identical_experts},
        )
        super().__init__(
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,  # pyright: ignore[reportArgumentType]
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            qk_norm=qk_norm,
            class_token=class_token,
            fc_norm=False,
            dynamic_img_size=True,
            drop_rate=drop_rate,
            pos_drop_rate=pos_drop_rate,
            proj_drop_rate=proj_drop_rate,
            attn_drop_rate=attn_drop_rate,
            drop_path_rate=drop_path_rate,
            weight_init="skip",
            embed_layer=CroppingPatchEmbed,
            norm_layer=LayerNorm,
            act_layer=act_layer,
            block_fn=make_block,  # pyright: ignore[reportArgumentType]
            device=device,
            dtype=dtype,
        )
        dd = {"device": device, "dtype": dtype}
        self.num_members = num_members
        self.head_bias = head_bias
        self.pre_logits: nn.Module = nn.Identity()
        if representation_size:
            self.pre_logits = nn.Sequential()
            self.pre_logits.add_module("fc", nn.Linear(embed_dim, representation_size, **dd))
            self.pre_logits.add_module("act", nn.Tanh())
            self._set_head_width(representation_size)
        if qk_norm:
            for block in self.blocks:
                width = embed_dim // num_heads
                block.attn.q_norm = nn.LayerNorm(width, eps=1e-6, bias=False, **dd)
                block.attn.k_norm = nn.LayerNorm(width, eps=1e-6, bias=False, **dd)
        self.init_weights()

    def init_weights(self, mode: str = "", needs_reset: bool = True) -> None:
        """Draw every parameter anew, also after ``to_empty``, as published; timm's arguments are of no account."""
        for module in reversed(list(self.modules())):
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
        for name, module in self.blocks.named_modules():
            if isinstance(module, nn.Linear):
                # Queries, keys and values are layers of their own.
                for part in module.weight.chunk(3) if name.endswith("qkv") else (module.weight,):
                    nn.init.xavier_uniform_(part)
                nn.init.normal_(module.bias, std=1e-6 if ".mlp." in name else 0.0)
        if self.pos_embed is not None:
            nn.init.normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.zeros_(self.cls_token)
        for layer in (self.patch_embed.proj, getattr(self.pre_logits, "fc", None)):
            if layer is not None:
                lecun_normal_(layer.weight)
                nn.init.zeros_(layer.bias)
        if isinstance(self.head, nn.Linear):
            nn.init.zeros_(self.head.weight)
            bias = self.head_bias
            nn.init.constant_(self.head.bias, -log(self.num_classes) if bias is None else bias)

    def expert_layers(self) -> Iterator[tuple[int, Union[MoeMlp, SoftMoeMlp]]]:
        """Go through the blocks with experts: number of the block, and its experts."""
        for index, block in enumerate(self.blocks):
            if isinstance(block.mlp, (MoeMlp, SoftMoeMlp)):
                yield index, block.mlp

    def set_capacity(
        self,
        capacity_factor: Optional[float] = None,
        *,
        priority: Optional[str] = None,
        num_selected: Optional[int] = None,
        blocks: Optional[Sequence[int]] = None,
        mode: str = "both",
    ) -> None:
        """Turn the dials of routing; no weight changes. Nothing is changed if an argument is refused.

        Args:
            capacity_factor: slots of all experts divided by choices; 0.5 halves the compute of experts against 1, and
                ``float("inf")`` drops nothing.
            priority: ``"vanilla"`` or ``"batch"``; below a capacity of 1 the latter loses the least.
            num_selected: experts that a token chooses.
            blocks: blocks to change, counted from 0; all with experts by default.
            mode: ``"train"``, ``"eval"`` or ``"both"``; ``num_selected`` is one for both.

        Raises:
            ValueError: if an argument is out of range, a block has no experts, or its slots cannot be changed.
        """
        layers = dict(self.expert_layers())
        wanted = list(layers) if blocks is None else [int(block) for block in blocks]
        without = [block for block in wanted if block not in layers]
        if without:
            raise ValueError(f"blocks {without} have no experts; those with experts are {list(layers)}")
        routers = [layers[block].router for block in wanted]
        if any(isinstance(router, SoftRouter) for router in routers):
            raise ValueError("the slots of soft mixtures are parameters: build the model with another num_slots")
        choosers = [router for router in routers if isinstance(router, TopKRouter)]
        if len(choosers) < len(routers) and (priority is not None or num_selected is not None):
            raise ValueError("where experts choose tokens there is neither priority nor num_selected to set")
        before = [dict(router.__dict__) for router in routers]
        try:
            for router in routers:
                if capacity_factor is not None:
                    router.set_capacity(capacity_factor, mode)  # pyright: ignore[reportCallIssue]
            for router in choosers:
                if priority is not None:
                    router.set_priority(priority, mode)
                if num_selected is not None:
                    router.set_num_selected(num_selected)
        except ValueError:
            for router, attributes in zip(routers, before, strict=True):
                router.__dict__.update(attributes)
            raise

    def keep_routing(self, keep: bool = True) -> None:
        """Keep where tokens went, in ``last.routing`` of each layer of experts, and all losses in evaluation, too."""
        for _, layer in self.expert_layers():
            layer.keep_routing = keep

    def auxiliary_losses(self) -> dict[str, Tensor]:
        """Return the losses of the last forward pass, means over groups and sums over blocks, for log and loss.

        Returns:
            ``"importance"``, ``"load"`` and ``"gshard"`` as far as they have a weight, and ``"auxiliary"``, their
            weighted sum, which is what to add to the loss. Empty in evaluation and where nothing is to be balanced.
        """
        found: dict[str, Tensor] = {}
        for _, layer in self.expert_layers():
            for name, loss in layer.last.losses.items():
                weight = layer.router.loss_weights[name]
                found[name] = found.get(name, 0) + loss.mean()
                found["auxiliary"] = found.get("auxiliary", 0) + weight * loss.mean()
        return found

    def average_members(self, logits: Tensor) -> Tensor:
        """Average the probabilities of an ensemble's members: ``[B, classes]`` logarithms of ``[B * M, classes]``."""
        members = logits.unflatten(0, (-1, self.num_members)).log_softmax(-1)
        return members.logsumexp(1) - log(self.num_members)

    def _pos_embed(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        tokens = x.flatten(1, 2)
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(batch, -1, -1), tokens], dim=1)
        table = resize_positions_aligned(
            self.pos_embed,  # pyright: ignore[reportArgumentType]
            self.patch_embed.grid_size,  # pyright: ignore[reportArgumentType]
            height,
            width,
            self.num_prefix_tokens,
        )
        return self.pos_drop(tokens + table)

    def set_input_size(
        self, img_size: Optional[tuple[int, int]] = None, patch_size: Optional[tuple[int, int]] = None
    ) -> None:
        """Make the table of positions for another size of image or patch, pixels."""
        grid = self.patch_embed.grid_size
        self.patch_embed.set_input_size(img_size=img_size, patch_size=patch_size)  # pyright: ignore[reportArgumentType]
        table = self.pos_embed
        assert table is not None and grid is not None and self.patch_embed.grid_size is not None
        height, width = self.patch_embed.grid_size
        resized = resize_positions_aligned(table.detach(), grid, height, width, self.num_prefix_tokens)
        self.pos_embed = nn.Parameter(resized, requires_grad=table.requires_grad)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool tokens ``[B, N, C]`` and classify them; ``pre_logits`` stops before the classifier."""
        x = self.pool(x)
        if self.global_pool:
            x = self.pre_logits(x)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    # torch.fx keeps functions whole that the module of the root's forward knows: hence one here.
    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Classify images ``[B, C, H, W]``, -1 to 1; an ensemble returns row b * M + m for member m of image b."""
        return self.forward_head(self.forward_features(x))

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
        """Collect what leaves chosen blocks; in an ensemble, from its first block of experts on, of every member.

        Args:
            x: images ``[B, C, H, W]``.
            indices: the blocks, negative from the end; a number for the last so many, ``None`` for all.
            return_prefix_tokens: return pairs of map and class token ``[B, 1, C]``.
            norm: apply the last norm to all of them.
            stop_early: do not run blocks behind the last chosen one.
            output_fmt: ``"NCHW"`` for maps, ``"NLC"`` for tokens, ``[B, H * W, C]``.
            intermediates_only: leave out the final features.
            output_dict: return timm's dictionary of ``image_intermediates``, with ``image_intermediates_prefix`` if
                prefix tokens are asked for and with ``image_features`` unless left out.
            attn_mask: must be ``None``.
            is_causal: must be false.

        Returns:
            The list, after the final tokens ``[B, N, C]`` unless left out; or the dictionary.

        Raises:
            ValueError: for another ``output_fmt``, a mask, or causal attention.
        """
        if attn_mask is not None or is_causal:
            raise ValueError("V-MoE attends to all tokens of an image: leave attn_mask and is_causal out")
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt must be 'NCHW' or 'NLC', got {output_fmt!r}")
        found: Any = super().forward_intermediates(
            x, indices, return_prefix_tokens, norm, stop_early, "NLC", intermediates_only
        )
        final, taps = (None, found) if intermediates_only else found
        maps, prefixes = zip(*taps, strict=True) if return_prefix_tokens and self.num_prefix_tokens else (taps, ())
        if output_fmt == "NCHW":
            grid = self.patch_embed.dynamic_feat_size((x.shape[2], x.shape[3]))
            maps = [tokens.transpose(1, 2).unflatten(2, grid).contiguous() for tokens in maps]
        return arrange_intermediates(maps, prefixes, final, output_dict)

    def prune_intermediate_layers(
        self, indices: Union[int, list[int]] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the maps of :meth:`forward_intermediates` do not need, and return the indices from the first."""
        kept = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if prune_head:
            self.pre_logits = nn.Identity()
            self._set_head_width(self.embed_dim)
        return kept

    def reset_classifier(self, num_classes: int, global_pool: Optional[str] = None) -> None:
        """Replace the classifier; the layer before it stays.

        Args:
            num_classes: its classes, 0 for none.
            global_pool: the pooling, as in the constructor; ``None`` to keep it.
        """
        super().reset_classifier(num_classes, global_pool)
        self._set_head_width(self.head_hidden_size)

    def _set_head_width(self, width: int) -> None:
        self.head_hidden_size = width
        if isinstance(self.head, nn.Linear) and self.head.in_features != width:
            dd: Any = get_device_dtype(self)
            self.head = nn.Linear(width, self.num_classes, **dd).train(self.training)


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """Bring a state dict in the published names, or in ours, into the model's; positions are resized to its grid.

    The layer before the head is left out if the model has none, as published fine-tuning has it. The head, which reads
    another thing then, keeps its own values.

    Args:
        state_dict: tensors by name, bare or under ``model``.
        model: the model to load them into.

    Raises:
        ValueError: if it is not a state dict of such a model, or its positions are of no square grid.
    """
    assert isinstance(model, VMoE)
    state_dict = convert_published(state_dict)
    if "pre_logits.fc.weight" in state_dict and isinstance(model.pre_logits, nn.Identity):
        state_dict = {name: value for name, value in state_dict.items() if not name.startswith("pre_logits.")}
        state_dict |= {f"head.{name}": value for name, value in model.head.state_dict().items()}
    state_dict = match_model(state_dict, model)
    return {**state_dict, "pos_embed": fit_positions(state_dict["pos_embed"], model)}


def fit_positions(table: Tensor, model: VMoE) -> Tensor:
    """Resize a table of positions to the model's grid.

    Args:
        table: ``[1, N, C]``, class token first if the model has one.
        model: the model.

    Raises:
        ValueError: if the table is of another grid, and of no square one.
    """
    grid = model.patch_embed.grid_size
    assert grid is not None
    num_prefix = model.num_prefix_tokens
    cells = table.shape[1] - num_prefix
    if cells == grid[0] * grid[1]:
        return table
    side = isqrt(max(cells, 0))
    if side == 0 or side**2 != cells:
        raise ValueError(f"pos_embed has {cells} positions, no square grid, and cannot be resized to {tuple(grid)}")
    return resize_positions_aligned(table, (side, side), grid[0], grid[1], num_prefix)


def every_second(depth: int) -> tuple[int, ...]:
    """Return the blocks 1, 3, 5, ... ("Every 2")."""
    return tuple(range(1, depth, 2))


def last_odd(count: int, depth: int) -> tuple[int, ...]:
    """Return the last so many of the odd blocks ("Last n")."""
    return every_second(depth)[-count:]


SIZES = {
    "s": {"embed_dim": 512, "depth": 8, "num_heads": 8},
    "b": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "l": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "h": {"embed_dim": 1280, "depth": 32, "num_heads": 16},
}


def _cfg(patch_size: int) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (224 // patch_size,) * 2,
        "crop_pct": 0.875,
        "interpolation": "bilinear",
        # Pixels lie between -1 and 1.
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "license": "apache-2.0",
        "paper_ids": "arXiv:2106.05974",
        "origin_url": "https://github.com/google-research/vmoe",
    }


# Weights were published for two of them, in files of many parts: see tools/convert_checkpoint.py.
default_cfgs = generate_default_cfgs(
    {
        f"vmoe_{name}": _cfg(int(name.split("_")[0][1:]))
        for name in (
            *("s32_last2_e8", "b32_last2_e8", "b16_every2_e8"),
            *("s32_last2_e32", "s32_every2_e32", "b32_last2_e32", "b32_every2_e32", "b16_last2_e32", "b16_every2_e32"),
            *("l32_last2_e32", "l32_every2_e32", "l16_last2_e32", "l16_every2_e32", "h14_last5_e32", "h14_every2_e32"),
        )
    }
)


def _create_vmoe(variant: str, pretrained: bool, overrides: dict[str, Any], **model_args: Any) -> VMoE:
    size, blocks, experts = variant.removeprefix("vmoe_").split("_")
    depth = SIZES[size[0]]["depth"]
    expert_blocks = every_second(depth) if blocks == "every2" else last_odd(int(blocks[-1]), depth)
    model_args = {
        **SIZES[size[0]],
        "patch_size": int(size[1:]),
        "expert_blocks": expert_blocks,
        "num_experts": int(experts[1:]),
        **model_args,
        **overrides,
    }
    # Dense tasks read four maps, the last included.
    depth = model_args["depth"]
    levels = sorted({(quarter * depth + 3) // 4 - 1 for quarter in range(1, 5)})
    return build_backbone(VMoE, variant, pretrained, checkpoint_filter_fn, levels, **model_args)


@register_model
def vmoe_s32_last2_e8(pretrained: bool = False, **kwargs: Any) -> VMoE:
    """V-MoE-S/32 with 8 experts in blocks 5 and 7, 57 M parameters, 73.1 % top-1 on ImageNet-1K as published."""
    return _create_vmoe("vmoe_s32_last2_e8", pretrained, kwargs, representation_size=512)


@register_model
def vmoe_b32_last2_e8(pretrained: bool = False, **kwargs: Any) -> VMoE:
    """V-MoE-B/32 with 8 experts in blocks 9 and 11, 154 M parameters."""
    return _create_vmoe("vmoe_b32_last2_e8", pretrained, kwargs)


@register_model
def vmoe_b16_every2_e8(pretrained: bool = False, **kwargs: Any) -> VMoE:
    """V-MoE-B/16 with 8 experts in every second block, 285 M parameters.

    85.6 % top-1 on ImageNet-1K as published, from ImageNet-21k, at 384 pixels.
    """
    return _create_vmoe("vmoe_b16_every2_e8", pretrained, kwargs)


@register_model
def vmoe_s32_last2_e32(pretrained: bool = False, **kwargs: Any) -> VMoE:
    """V-MoE-S/32 with 32 experts in blocks 5 and 7, 158 M parameters."""
    return _create_vmoe("vmoe_s32_last2_e32", pretrained, kwargs, representation_size=512)


@register_model
def vmoe_s32_every2_e32(pretrained: bool = False, **kwargs: Any) -> VMoE:
    """V-MoE-S/32 with 32 experts in every second block, 288 M parameters."""
    return _create_vmoe("vmoe_s32_every2_e32", pretrained, kwargs, representation_size=512)


@register_model
def vmoe_b32_last2_e32(pretrained: bool = False, **kwargs: Any) -> VMoE:
    """V-MoE-B/32 with 32 experts in blocks 9 and 11, 382 M parameters."""
    return _create_vmoe("vmoe_b32_last2_e32", pretrained, kwargs, representation_size=768)


@register_model
def vmoe_b32_every2_e32(pretrained: bool = False, **kwargs: Any) -> VMoE:
    """V-MoE-B/32 with 32 experts in every second block, 967 M parameters."""
    return _create_vmoe("vmoe_b32_every2_e32", pretrained, kwargs, representation_size=768)


@register_model
def vmoe_b16_last2_e32(pretrained: bool = False, **kwargs: Any) -> VMoE:
    """V-MoE-B/16 with 32 experts in blocks 9 and 11, 380 M parameters."""
    return _create_vmoe("vmoe_b16_last2_e32", pretrained, kwargs, representation_size=768)


@register_model
def vmoe_b16_every2_e32(pretrained: bool = False, **kwargs: Any) -> VMoE:
    """V-MoE-B/16 with 32 experts in every second block, 966 M parameters."""
    return _create_vmoe("vmoe_b16_every2_e32", pretrained, kwargs, representation_size=768)


@register_model
def vmoe_l32_last2_e32(pretrained: bool = False, **kwargs: Any) -> VMoE:
    """V-MoE-L/32 with 32 experts in blocks 21 and 23, 828 M parameters."""
    return _create_vmoe("vmoe_l32_last2_e32", pretrained, kwargs, representation_size=1024)


@register_model
def vmoe_l32_every2_e32(pretrained: bool = False, **kwargs: Any) -> VMoE:
    """V-MoE-L/32 with 32 experts in every second block, 3.4 G parameters."""
    return _create_vmoe("vmoe_l32_every2_e32", pretrained, kwargs, representation_size=1024)


@register_model
def vmoe_l16_last2_e32(pretrained: bool = False, **kwargs: Any) -> VMoE:
    """V-MoE-L/16 with 32 experts in blocks 21 and 23, 826 M parameters."""
    return _create_vmoe("vmoe_l16_last2_e32", pretrained, kwargs, representation_size=1024)


@register_model
def vmoe_l16_every2_e32(pretrained: bool = False, **kwargs: Any) -> VMoE:
    """V-MoE-L/16 with 32 experts in every second block, 3.4 G parameters."""
    return _create_vmoe("vmoe_l16_every2_e32", pretrained, kwargs, representation_size=1024)


@register_model
def vmoe_h14_last5_e32(pretrained: bool = False, **kwargs: Any) -> VMoE:
    """V-MoE-H/14 with 32 experts in blocks 23, 25, 27, 29 and 31, 2.7 G parameters."""
    return _create_vmoe("vmoe_h14_last5_e32", pretrained, kwargs, representation_size=1280)


@register_model
def vmoe_h14_every2_e32(pretrained: bool = False, **kwargs: Any) -> VMoE:
    """V-MoE-H/14 with 32 experts in every second block, 7.1 G parameters."""
    return _create_vmoe("vmoe_h14_every2_e32", pretrained, kwargs, representation_size=1280)
