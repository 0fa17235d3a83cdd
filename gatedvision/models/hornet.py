"""HorNet: backbones on recursive gated convolution, a convolution that gates itself several times over.

Paper: Y. Rao, W. Zhao, Y. Tang, J. Zhou, S.-N. Lim and J. Lu, "HorNet: Efficient High-Order Spatial Interactions
with Recursive Gated Convolutions", https://arxiv.org/abs/2207.14284 (NeurIPS 2022).
Published code (MIT) https://github.com/raoyongming/HorNet; the weights come without a licence of their own.

The map stays channels-last, ``[B, H, W, C]``, from the stem to the last stage.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Optional, Union

import torch
from timm.layers import DropPath, NormMlpClassifierHead, trunc_normal_
from timm.models import checkpoint, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from gatedvision.layers.gelu_mlp import GeluMlp
from gatedvision.layers.global_filter import resize_spectrum
from gatedvision.layers.image_conv import ImageConv
from gatedvision.layers.layer_norm import AddLayerNorm, LayerNorm, Stream, join
from gatedvision.layers.recursive_gated_conv import PUBLISHED_GATED_CONV_NAMES, RecursiveGatedConv
from gatedvision.models._pretrained import StateDict, build_backbone, imagenet_cfg, match_model, rename_published
from gatedvision.models._staged import StagedBackbone, drop_path_rates

__all__ = ["HorNet"]


class Stem(nn.Module):
    """Cut an image into square patches: a strided convolution, then a layer norm.

    Args:
        in_chans: channels of the image.
        dim: channels of the output.
        patch_size: side of the patches, pixels.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(self, in_chans: int, dim: int, patch_size: int = 4, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.conv = ImageConv(in_chans, dim, patch_size, stride=patch_size, device=device, dtype=dtype)
        self.norm = LayerNorm(dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map an image ``[B, C, H, W]`` to ``[B, H // P, W // P, D]``, P the side of the patches."""
        # The map takes over the memory order of the image, which is smaller and cheaper to turn.
        x = self.conv(x.contiguous(memory_format=torch.channels_last))
        return self.norm(x.permute(0, 2, 3, 1))


class Downsample(nn.Module):
    """Halve the sides of a map: a layer norm, then a strided convolution.

    Args:
        in_dim: channels of the input.
        dim: channels of the output.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(self, in_dim: int, dim: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.norm = LayerNorm(in_dim, device=device, dtype=dtype)
        self.conv = nn.Conv2d(in_dim, dim, 2, stride=2, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, H, W, C]`` to ``[B, H // 2, W // 2, D]``."""
        return self.conv(self.norm(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class LayerScale(nn.Module):
    """Factors of a branch's channels, which take effect where the branch joins the stream.

    Args:
        dim: channels.
        init_value: initial factor; at 0 all factors are 1 and not learned.
        device: where the factors are created.
        dtype: in which type the factors are created.
    """

    def __init__(self, dim: int, init_value: float, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.init_value = init_value
        gamma = torch.full((dim,), float(init_value or 1), device=device, dtype=dtype)
        if init_value > 0:
            self.gamma = nn.Parameter(gamma)
        else:
            self.register_buffer("gamma", gamma, persistent=False)

    def reset_parameters(self) -> None:
        """Set the factors to their initial value."""
        nn.init.constant_(self.gamma, float(self.init_value or 1))


class HorNetBlock(nn.Module):
    """Recursive gated convolution and MLP, each behind a layer norm and inside a residual connection.

    Args:
        dim: channels.
        order: order of the recursive gated convolution.
        map_size: rows and columns for which the filters of a global-local filter are stored; None for a
            depthwise convolution of 7x7 pixels.
        gate_scale: multiplies the gates.
        layer_scale: initial factor of every branch's channels; no such factors at 0.
        drop_path: probability of dropping a branch, 0 to 1.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        dim: int,
        order: int,
        map_size: Optional[tuple[int, int]] = None,
        gate_scale: float = 1 / 3,
        layer_scale: float = 1e-6,
        drop_path: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.norm_mixer = AddLayerNorm(dim, **dd)
        self.mixer = RecursiveGatedConv(dim, order, map_size=map_size, scale=gate_scale, **dd)
        self.scale_mixer = LayerScale(dim, layer_scale, **dd)
        self.norm_mlp = AddLayerNorm(dim, **dd)
        self.mlp = GeluMlp(dim, 4 * dim, **dd)
        self.scale_mlp = LayerScale(dim, layer_scale, **dd)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, stream: Stream) -> Stream:
        """Pass on the last branch with its scales and the sum of all before it, the maps ``[B, H, W, C]``."""
        x, residual = self.norm_mixer(stream)
        branch = self.drop_path(self.mixer(x))
        x, residual = self.norm_mlp((branch, self.scale_mixer.gamma, residual))
        return self.drop_path(self.mlp(x)), self.scale_mlp.gamma, residual


class HorNetStage(nn.Module):
    """Blocks at one resolution, after the step down to it; activations are recomputed block by block.

    Args:
        blocks: the blocks, run in order.
        downsample: what comes before them; nothing by default.
    """

    def __init__(self, blocks: Sequence[HorNetBlock], downsample: Optional[nn.Module] = None) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = nn.Identity() if downsample is None else downsample
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Run the step down and the blocks on a map."""
        x = self.downsample(x)
        stream: Stream = (None, None, x)
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                stream = checkpoint(block, stream)
            else:
                stream = block(stream)
        return join(stream)


class HorNet(StagedBackbone):
    """HorNet: four stages at strides 4, 8, 16 and 32, each gated to a higher order (arXiv:2207.14284).

    The last norm acts on the pooled vector, inside the head. Images have to be as high and wide as the last stride.

    Args:
        img_size: side or height and width of the image that the stored filters of the global-local filters
            fit, pixels; images may have any other size. Without such filters it changes nothing.
        in_chans: channels of the image.
        num_classes: classes of the head, 0 for none.
        global_pool: timm's name of the pooling, ``""`` for none.
        patch_size: side of the stem's patches and first stride, pixels; every stage doubles the stride.
        dims: channels of each stage.
        depths: blocks of each stage.
        orders: order of the recursive gated convolutions of each stage.
        global_filters: whether the gates of each stage come from global-local filters (``_gf`` models) rather
            than from depthwise convolutions of 7x7 pixels.
        gate_scale: multiplies the gates.
        layer_scale: initial factor of every branch's channels; no such factors at 0.
        drop_rate: dropout before the classifier, 0 to 1.
        drop_path_rate: probability of dropping a branch of the last block, rising linearly from 0 at the first.
        feature_norms: give every stage's feature map a layer norm of its own, as the published backbones for
            dense prediction do; classification does not use them.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if ``dims``, ``depths``, ``orders`` and ``global_filters`` differ in length, a width cannot
            be halved as often as its order asks, or ``img_size`` is too small for the stored filters.
    """

    def __init__(
        self,
        img_size: Union[int, tuple[int, int]] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        patch_size: int = 4,
        dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 3, 18, 2),
        orders: Sequence[int] = (2, 3, 4, 5),
        global_filters: Sequence[bool] = (False, False, False, False),
        gate_scale: float = 1 / 3,
        layer_scale: float = 1e-6,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        feature_norms: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if not len(dims) == len(depths) == len(orders) == len(global_filters):
            raise ValueError(
                f"dims {dims}, depths {depths}, orders {orders} and global_filters {global_filters} must have one "
                f"entry per stage"
            )
        dd = {"device": device, "dtype": dtype}
        reductions = [patch_size * 2**stage for stage in range(len(dims))]
        super().__init__(in_chans, num_classes, dims, reductions)
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        map_sizes = [
            (height // reduction, width // reduction) if filtered else None
            for reduction, filtered in zip(reductions, global_filters, strict=True)
        ]
        self.stem = Stem(in_chans, dims[0], patch_size, **dd)
        downsamples = [None, *(Downsample(before, dim, **dd) for before, dim in pairwise(dims))]
        rates = drop_path_rates(drop_path_rate, depths)
        self.stages = nn.Sequential(
            *(
                HorNetStage(
                    [HorNetBlock(dim, order, map_size, gate_scale, layer_scale, rate, **dd) for rate in stage_rates],
                    downsample,
                )
                for dim, order, map_size, stage_rates, downsample in zip(
                    dims, orders, map_sizes, rates, downsamples, strict=True
                )
            )
        )
        self.norm = nn.Identity()
        self.feature_norms = nn.ModuleList(LayerNorm(dim, **dd) for dim in dims if feature_norms)
        self.head = NormMlpClassifierHead(
            dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, norm_layer="layernorm2d", **dd
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Draw every parameter anew: linear layers and convolutions from a normal of deviation 0.02."""
        super().init_weights()
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _to_map(self, stream: Tensor, norm: bool) -> Tensor:
        return stream.permute(0, 3, 1, 2)

    def _tap(self, stream: Tensor, index: int, norm: bool) -> Tensor:
        if len(self.feature_norms) > 0:
            stream = self.feature_norms[index](stream)
        return stream.permute(0, 3, 1, 2)

    def prune_intermediate_layers(
        self, indices: Union[int, list[int]] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the maps of :meth:`forward_intermediates` do not need, see :class:`StagedBackbone`."""
        take_indices, last = feature_take_indices(len(self.stages), indices)
        if prune_head or last < len(self.stages) - 1:
            self.head.norm = nn.Identity()
        for index in range(len(self.feature_norms)):
            if index not in take_indices:
                self.feature_norms[index] = nn.Identity()
        return super().prune_intermediate_layers(indices, prune_norm, prune_head)


# Under "backbone.", as mmpretrain keeps them; there the last norm is called "norm3", the layer scales have a module
# and the projections of gnConv another name.
PUBLISHED_NAMES = (
    (r"^backbone\.downsample_layers\.0\.0\.", "stem.conv."),
    (r"^backbone\.downsample_layers\.0\.1\.", "stem.norm."),
    (r"^backbone\.downsample_layers\.(\d+)\.0\.", r"stages.\1.downsample.norm."),
    (r"^backbone\.downsample_layers\.(\d+)\.1\.", r"stages.\1.downsample.conv."),
    (r"^backbone\.(stages\.\d+)\.(\d+)\.", r"\1.blocks.\2."),
    (r"(\.blocks\.\d+)\.norm1\.", r"\1.norm_mixer."),
    (r"(\.blocks\.\d+)\.norm2\.", r"\1.norm_mlp."),
    (r"\.pwconv(\d)\.", r".mlp.fc\1."),
    (r"\.gamma1(\.weight)?$", ".scale_mixer.gamma"),
    (r"\.gamma2(\.weight)?$", ".scale_mlp.gamma"),
    *((rf"\.gnconv\.{old}", rf".mixer.{new}") for old, new in PUBLISHED_GATED_CONV_NAMES),
    (r"\.gnconv\.", ".mixer."),
    (r"^backbone\.norm\.", "head.norm."),
    (r"^backbone\.norm(\d)\.", r"feature_norms.\1."),
    (r"^head\.(?:fc\.)?(?=weight|bias)", "head.fc."),
)


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Bring a state dict in the published names, in mmpretrain's or in ours into the model's.

    Stored filters of another size than the model's are resized. The published backbones for dense prediction
    have norms for their four maps and neither last norm nor classifier; the published classifiers have no norms
    for the maps. A model with ``feature_norms`` takes both: what the file lacks keeps its initial value.

    Args:
        state_dict: tensors by name, bare or under ``model``.
        model: the model to load them into.

    Raises:
        ValueError: if it is not a state dict of such a model.
    """
    state_dict = state_dict.get("model", state_dict)
    if "stem.conv.weight" not in state_dict:
        state_dict = _rename(state_dict)
    own = model.state_dict()
    dense_file = "feature_norms.0.weight" in state_dict
    dense_model = "feature_norms.0.weight" in own
    if dense_file and not dense_model:
        raise ValueError("the checkpoint has norms for the feature maps; create the model with feature_norms=True")
    if dense_model:
        optional = ("head.norm.",) if dense_file else ("feature_norms.",)
        state_dict = {**{name: value for name, value in own.items() if name.startswith(optional)}, **state_dict}
    state_dict = match_model(dict(state_dict), model)
    for name, value in state_dict.items():
        if name.endswith(".complex_weight") and value.ndim == 4:
            _, height, frequencies, _ = own[name].shape
            state_dict[name] = resize_spectrum(value, height, frequencies).to(value.dtype)
    return state_dict


def _rename(state_dict: StateDict) -> dict[str, Tensor]:
    """Bring names of the published code and of mmpretrain into our own."""
    # Bare published names begin with "stages.", as ours do; the prefix tells them apart.
    prefixed = {
        name if name.startswith(("backbone.", "head.")) else f"backbone.{name}": value
        for name, value in state_dict.items()
    }
    if "backbone.norm0.weight" not in prefixed:
        prefixed = {name.replace("backbone.norm3.", "backbone.norm."): value for name, value in prefixed.items()}
    return rename_published(prefixed, PUBLISHED_NAMES)


def _cfg(**kwargs: Any) -> dict[str, Any]:
    cfg = imagenet_cfg(
        url="",
        sha256="",
        pool_size=(7, 7),
        first_conv="stem.conv",
        license="mit",
        paper_ids="arXiv:2207.14284",
        origin_url="https://github.com/raoyongming/HorNet",
    )
    return {**cfg, "url": None, **kwargs}


def _link(file_id: str, **kwargs: Any) -> dict[str, Any]:
    # No checksums are published.
    return _cfg(url=f"https://cloud.tsinghua.edu.cn/f/{file_id}/?dl=1", **kwargs)


def _mirror(file: str) -> dict[str, Any]:
    # The name ends with the first digits of the checksum.
    checksum = file.removesuffix(".pth").rsplit("-", 1)[1]
    return _cfg(url=f"https://download.openmmlab.com/mmclassification/v0/hornet/{file}#sha256={checksum}")


# From 384 pixels up, published evaluation takes the whole image, warped to a square.
IMG_384 = {"input_size": (3, 384, 384), "pool_size": (12, 12), "crop_pct": 1.0, "crop_mode": "squash"}
# Not stated anywhere: the count that explains the published numbers of parameters of the large models.
IN_22K = {"num_classes": 10450}

# Of the large models, only the pre-trained weights are published: by default they have the 1000 classes of ImageNet-1K
# and no weights.
default_cfgs = generate_default_cfgs(
    {
        "hornet_tiny_7x7.mmpretrain_in1k": _mirror("hornet-tiny_3rdparty_in1k_20220915-0e8eedff.pth"),
        "hornet_tiny_7x7.in1k": _link("bac9690c72944d19aca1"),
        "hornet_tiny_gf.mmpretrain_in1k": _mirror("hornet-tiny-gf_3rdparty_in1k_20220915-4c35a66b.pth"),
        "hornet_tiny_gf.in1k": _link("460e759c82324ea6bfa3"),
        "hornet_small_7x7.mmpretrain_in1k": _mirror("hornet-small_3rdparty_in1k_20220915-5935f60f.pth"),
        "hornet_small_7x7.in1k": _link("8ef64277da0e469ea857"),
        "hornet_small_gf.mmpretrain_in1k": _mirror("hornet-small-gf_3rdparty_in1k_20220915-649ca492.pth"),
        "hornet_small_gf.in1k": _link("959603ca287d4c09ad49"),
        "hornet_base_7x7.mmpretrain_in1k": _mirror("hornet-base_3rdparty_in1k_20220915-a06176bb.pth"),
        "hornet_base_7x7.in1k": _link("13a748487711492e9704"),
        "hornet_base_gf.mmpretrain_in1k": _mirror("hornet-base-gf_3rdparty_in1k_20220915-82c06fa7.pth"),
        "hornet_base_gf.in1k": _link("c212d1d8a3914b47a5c1"),
        "hornet_base_gf_img384": _cfg(**IMG_384),
        "hornet_large_7x7.in22k": _link("c2fc23caae084a3aa73d", **IN_22K),
        "hornet_large_7x7.*": _cfg(),
        "hornet_large_gf.in22k": _link("8600206ebdfa485f98d0", **IN_22K),
        "hornet_large_gf.*": _cfg(),
        "hornet_large_gf_img384.in22k": _link("eec48d5eca5a48d98fd2", **IMG_384, **IN_22K),
        "hornet_large_gf_img384.*": _cfg(**IMG_384),
    }
)

FILTERED = (False, False, True, True)


def _create_hornet(variant: str, pretrained: bool, overrides: dict[str, Any], base: int, **model_args: Any) -> HorNet:
    model_args = {"dims": tuple(base * 2**stage for stage in range(4)), **model_args, **overrides}
    return build_backbone(
        HorNet, variant, pretrained, checkpoint_filter_fn, range(len(model_args["dims"])), **model_args
    )


@register_model
def hornet_tiny_7x7(pretrained: bool = False, **kwargs: Any) -> HorNet:
    """HorNet-T with 7x7 convolutions, 22 M parameters, 82.8 % top-1 on ImageNet-1K as published."""
    return _create_hornet("hornet_tiny_7x7", pretrained, kwargs, 64)


@register_model
def hornet_tiny_gf(pretrained: bool = False, **kwargs: Any) -> HorNet:
    """HorNet-T with global-local filters, 23 M parameters, 83.0 % top-1 on ImageNet-1K as published."""
    return _create_hornet("hornet_tiny_gf", pretrained, kwargs, 64, global_filters=FILTERED)


@register_model
def hornet_small_7x7(pretrained: bool = False, **kwargs: Any) -> HorNet:
    """HorNet-S with 7x7 convolutions, 50 M parameters, 83.8 % top-1 on ImageNet-1K as published."""
    return _create_hornet("hornet_small_7x7", pretrained, kwargs, 96)


@register_model
def hornet_small_gf(pretrained: bool = False, **kwargs: Any) -> HorNet:
    """HorNet-S with global-local filters, 50 M parameters, 84.0 % top-1 on ImageNet-1K as published."""
    return _create_hornet("hornet_small_gf", pretrained, kwargs, 96, global_filters=FILTERED)


@register_model
def hornet_base_7x7(pretrained: bool = False, **kwargs: Any) -> HorNet:
    """HorNet-B with 7x7 convolutions, 87 M parameters, 84.2 % top-1 on ImageNet-1K as published."""
    return _create_hornet("hornet_base_7x7", pretrained, kwargs, 128)


@register_model
def hornet_base_gf(pretrained: bool = False, **kwargs: Any) -> HorNet:
    """HorNet-B with global-local filters, 88 M parameters, 84.3 % top-1 on ImageNet-1K as published."""
    return _create_hornet("hornet_base_gf", pretrained, kwargs, 128, global_filters=FILTERED)


@register_model
def hornet_base_gf_img384(pretrained: bool = False, **kwargs: Any) -> HorNet:
    """HorNet-B with global-local filters for 384 pixels, 92 M parameters; no accuracy and no weights published."""
    return _create_hornet("hornet_base_gf_img384", pretrained, kwargs, 128, global_filters=FILTERED, img_size=384)


@register_model
def hornet_large_7x7(pretrained: bool = False, **kwargs: Any) -> HorNet:
    """HorNet-L with 7x7 convolutions, 195 M parameters; weights pre-trained on ImageNet-22K."""
    return _create_hornet("hornet_large_7x7", pretrained, kwargs, 192)


@register_model
def hornet_large_gf(pretrained: bool = False, **kwargs: Any) -> HorNet:
    """HorNet-L with global-local filters, 196 M parameters; weights pre-trained on ImageNet-22K."""
    return _create_hornet("hornet_large_gf", pretrained, kwargs, 192, global_filters=FILTERED)


@register_model
def hornet_large_gf_img384(pretrained: bool = False, **kwargs: Any) -> HorNet:
    """HorNet-L with global-local filters for 384 pixels, 202 M parameters; weights tuned on ImageNet-22K."""
    return _create_hornet("hornet_large_gf_img384", pretrained, kwargs, 192, global_filters=FILTERED, img_size=384)
