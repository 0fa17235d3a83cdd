"""ViG-H: hierarchical vision backbones on bidirectional gated linear attention.

Paper: B. Liao, X. Wang, L. Zhu, Q. Zhang and C. Huang, "ViG: Linear-complexity Visual Sequence Learning with
Gated Linear Attention", https://arxiv.org/abs/2405.18425 (AAAI 2025).
Published code (MIT) https://github.com/hustvl/ViG, weights (Apache-2.0) https://huggingface.co/hustvl/ViG.

The map stays channels-last, ``[B, H, W, D]``, from the stem to the last norm.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Union

from timm.layers import ClassifierHead, DropPath, trunc_normal_
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from gatedvision.layers.conv_norm import ConvNorm, ConvStem
from gatedvision.layers.gated_linear_attention import PUBLISHED_MIXER_NAMES, GatedLinearAttention
from gatedvision.layers.swiglu import SwiGluMlp, swiglu_width
from gatedvision.models._pretrained import StateDict, build_backbone, imagenet_cfg, match_model, rename_published
from gatedvision.models._staged import Stage, StagedBackbone, drop_path_rates

__all__ = ["ViGH"]


class ViGHBlock(nn.Module):
    """Token mixer and gated MLP, each behind a layer norm and inside a residual connection (arXiv:2405.18425).

    Args:
        dim: channels.
        num_heads: attention heads.
        drop_path: probability of dropping a branch, 0 to 1.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(self, dim: int, num_heads: int, drop_path: float = 0.0, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.norm_mixer = nn.LayerNorm(dim, eps=1e-5, **dd)
        self.mixer = GatedLinearAttention(dim, num_heads, **dd)
        self.norm_mlp = nn.LayerNorm(dim, eps=1e-5, **dd)
        self.mlp = SwiGluMlp(dim, swiglu_width(dim, 32), **dd)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, H, W, D]`` to the same shape."""
        x = x + self.drop_path(self.mixer(self.norm_mixer(x)))
        return x + self.drop_path(self.mlp(self.norm_mlp(x)))


class ViGH(StagedBackbone):
    """Hierarchical ViG: four stages at strides 4, 8, 16 and 32, no positions (arXiv:2405.18425).

    Args:
        in_chans: channels of the image.
        num_classes: classes of the head, 0 for none.
        global_pool: timm's name of the pooling, ``""`` for none.
        dims: channels of each stage.
        depths: blocks of each stage.
        num_heads: attention heads of each stage.
        drop_rate: dropout before the classifier, 0 to 1.
        drop_path_rate: probability of dropping a branch of the last block, rising linearly from 0 at the first.
        feature_norms: give every stage's feature map a layer norm of its own, as the published backbone for
            dense prediction does; classification does not use them.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if ``dims``, ``depths`` and ``num_heads`` differ in length, or a width does not divide
            into its heads.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 5, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        feature_norms: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if not len(dims) == len(depths) == len(num_heads):
            raise ValueError(f"dims {dims}, depths {depths} and num_heads {num_heads} must have one entry per stage")
        dd = {"device": device, "dtype": dtype}
        super().__init__(in_chans, num_classes, dims, [4 * 2**stage for stage in range(len(dims))])
        self.stem = ConvStem(in_chans, dims[0], (3, 3), (2, 2), nn.GELU, **dd)
        downsamples = [None, *(ConvNorm(before, dim, **dd) for before, dim in pairwise(dims))]
        rates = drop_path_rates(drop_path_rate, depths)
        self.stages = nn.Sequential(
            *(
                Stage([ViGHBlock(dim, heads, rate, **dd) for rate in stage_rates], downsample)
                for dim, heads, stage_rates, downsample in zip(dims, num_heads, rates, downsamples, strict=True)
            )
        )
        self.norm = nn.LayerNorm(dims[-1], eps=1e-5, **dd)
        self.feature_norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-5, **dd) for dim in dims if feature_norms)
        self.head = ClassifierHead(dims[-1], num_classes, global_pool, drop_rate, **dd)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw every parameter anew: linear layers, those of the mixers too, from a normal of deviation 0.02."""
        super().init_weights()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _to_map(self, stream: Tensor, norm: bool) -> Tensor:
        return (self.norm(stream) if norm else stream).permute(0, 3, 1, 2)

    def _tap(self, stream: Tensor, index: int, norm: bool) -> Tensor:
        if len(self.feature_norms) > 0:
            return self.feature_norms[index](stream).permute(0, 3, 1, 2)
        return super()._tap(stream, index, norm)

    def prune_intermediate_layers(
        self, indices: Union[int, list[int]] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the maps of :meth:`forward_intermediates` do not need, see :class:`StagedBackbone`."""
        take_indices = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        for index in range(len(self.feature_norms)):
            if index not in take_indices:
                self.feature_norms[index] = nn.Identity()
        return take_indices


PUBLISHED_NAMES = (
    (r"^patch_embed\.0\.", "stem.conv_norm1.conv."),
    (r"^patch_embed\.2\.", "stem.conv_norm1.norm."),
    (r"^patch_embed\.5\.", "stem.conv_norm2.conv."),
    (r"^patch_embed\.7\.", "stem.conv_norm2.norm."),
    # Published stages end with the step down that begins ours.
    (r"^layers\.(\d+)\.downsample\.1\.", lambda match: f"stages.{int(match[1]) + 1}.downsample.conv."),
    (r"^layers\.(\d+)\.downsample\.3\.", lambda match: f"stages.{int(match[1]) + 1}.downsample.norm."),
    (r"^layers\.", "stages."),
    (r"^(stages\.\d+\.blocks\.\d+)\.norm\.", r"\1.norm_mixer."),
    (r"^(stages\.\d+\.blocks\.\d+)\.norm2\.", r"\1.norm_mlp."),
    (r"^(stages\.\d+\.blocks\.\d+)\.mlp\.fc1\.", r"\1.mlp.proj_in."),
    (r"^(stages\.\d+\.blocks\.\d+)\.mlp\.fc2\.", r"\1.mlp.proj_out."),
    *((rf"^(stages\.\d+\.blocks\.\d+)\.op\.{old}", rf"\1.mixer.{new}") for old, new in PUBLISHED_MIXER_NAMES),
    (r"^classifier\.norm\.", "norm."),
    (r"^classifier\.head\.", "head.fc."),
    (r"^outnorm(\d)\.", r"feature_norms.\1."),
)


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """Bring a state dict in the published names, or in ours, into the model's.

    The published backbone for dense prediction has norms for its four maps and neither last norm nor
    classifier; the published classifier has no norms for the maps. A model with ``feature_norms`` takes
    both: what the file lacks keeps its initial value.

    Args:
        state_dict: tensors by name, bare or under ``model``.
        model: the model to load them into.

    Raises:
        ValueError: if it is not a state dict of such a model.
    """
    state_dict = rename_published(state_dict, PUBLISHED_NAMES)
    own = model.state_dict()
    dense_file = "feature_norms.0.weight" in state_dict
    dense_model = "feature_norms.0.weight" in own
    if dense_file and not dense_model:
        raise ValueError("the checkpoint has norms for the feature maps; create the model with feature_norms=True")
    if dense_model:
        optional = ("norm.",) if dense_file else ("feature_norms.",)
        state_dict = {**{name: value for name, value in own.items() if name.startswith(optional)}, **state_dict}
    return match_model(state_dict, model)


def _cfg(file: str, sha256: str) -> dict[str, Any]:
    return imagenet_cfg(
        f"https://huggingface.co/hustvl/ViG/resolve/main/{file}",
        sha256,
        pool_size=(7, 7),
        first_conv="stem.conv_norm1.conv",
        license="apache-2.0",
        paper_ids="arXiv:2405.18425",
        origin_url="https://github.com/hustvl/ViG",
    )


default_cfgs = generate_default_cfgs(
    {
        "vig_h_t.in1k": _cfg("vig_h_t_82p8acc.pth", "287d1b6e742edf4b6dc6a36010ad09c27e52c5c140369ffc36230b4b335c5e68"),
        "vig_h_s.in1k": _cfg("vig_h_s_83p8acc.pth", "0d52501e8d6097177ba47520cc15052d694b82ecb7b7ffffab59a11dc40bbb4a"),
        "vig_h_b.in1k": _cfg("vig_h_b_84p2acc.pth", "49acb31474ba5cf616414739c9410721f8e7f77b5b20ac57b84e16f28682a263"),
    }
)


def _create_vig_h(variant: str, pretrained: bool, overrides: dict[str, Any], **model_args: Any) -> ViGH:
    levels = range(len(overrides.get("dims", model_args["dims"])))
    return build_backbone(ViGH, variant, pretrained, checkpoint_filter_fn, levels, **{**model_args, **overrides})


@register_model
def vig_h_t(pretrained: bool = False, **kwargs: Any) -> ViGH:
    """ViG-H-T, 29 M parameters, 82.8 % top-1 on ImageNet-1K as published."""
    dims, num_heads = (96, 192, 384, 768), (3, 6, 12, 24)
    return _create_vig_h("vig_h_t", pretrained, kwargs, dims=dims, depths=(2, 2, 5, 2), num_heads=num_heads)


@register_model
def vig_h_s(pretrained: bool = False, **kwargs: Any) -> ViGH:
    """ViG-H-S, 50 M parameters, 83.8 % top-1 on ImageNet-1K as published."""
    dims, num_heads = (96, 192, 384, 768), (3, 6, 12, 24)
    return _create_vig_h("vig_h_s", pretrained, kwargs, dims=dims, depths=(2, 2, 17, 2), num_heads=num_heads)


@register_model
def vig_h_b(pretrained: bool = False, **kwargs: Any) -> ViGH:
    """ViG-H-B, 89 M parameters, 84.2 % top-1 on ImageNet-1K as published."""
    dims, num_heads = (128, 256, 512, 1024), (4, 8, 16, 32)
    return _create_vig_h("vig_h_b", pretrained, kwargs, dims=dims, depths=(2, 2, 17, 2), num_heads=num_heads)
