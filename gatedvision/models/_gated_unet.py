"""What the attention U-Nets share: any input size, attention maps on request, heads, and timm's contract for them."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Optional, Union

import torch
import torch.nn.functional as F
from timm.layers import get_device_dtype
from timm.models import checkpoint
from torch import Tensor, nn

from gatedvision.layers._memory_format import join_channels
from gatedvision.layers.conv_batch_norm import ConvBatchNorm, Sizes, make_conv
from gatedvision.models._pretrained import StateDict, build_backbone

INITS = ("framework", "kaiming")
Level = tuple[Tensor, list[Tensor]]


def draw_weights(model: nn.Module, init: str) -> None:
    """Draw every parameter anew, also after ``to_empty``.

    Args:
        model: the network.
        init: ``"framework"`` for PyTorch's defaults, or ``"kaiming"``: kernels and linear layers normal with variance
            2 over the fan-in, scales of batch norms normal around 1 with deviation 0.02.
    """
    for module in reversed(list(model.modules())):
        if init == "kaiming" and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_parameters()
            nn.init.normal_(module.weight, 1.0, 0.02)
            continue
        # Children come before their parents, so that a module's own rule wins over its parts' defaults.
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
        if init == "kaiming" and isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, mode="fan_in")


def check_init(init: str) -> str:
    """Return the name of an initialisation.

    Raises:
        ValueError: if it is unknown.
    """
    if init not in INITS:
        raise ValueError(f"init must be one of {', '.join(INITS)}, got {init!r}")
    return init


class ConvStage(nn.Module):
    """Blocks of the encoder at one resolution, after a max pool if any.

    Args:
        blocks: the blocks, run in order.
        pool: kernel and stride of the max pool before them, for each axis; None for none.
    """

    def __init__(self, blocks: Sequence[nn.Module], pool: Optional[tuple[int, ...]] = None) -> None:
        super().__init__()
        make_pool = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
        self.downsample = nn.Identity() if pool is None else make_pool[len(pool)](pool, pool)
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, *S]`` to ``[B, C', *S']``."""
        return self.blocks(self.downsample(x))


def two_convs(in_chans: int, dim: int, kernel_size: Sizes = 3, **kwargs: Any) -> list[nn.Module]:
    """Return the block of all U-Nets: two convolutions, each with batch norm and ReLU."""
    return [ConvBatchNorm(in_chans, dim, kernel_size, **kwargs), ConvBatchNorm(dim, dim, kernel_size, **kwargs)]


class GatedUnet(nn.Module):
    """Base class of the attention U-Nets.

    A network sets ``stages`` (the encoder, the finest first), ``decoder`` (its levels, the coarsest first, each called
    with what comes from below and the skip connection) and ``head``, and calls :meth:`init_weights` at the end.

    Args:
        in_chans: channels of the image.
        num_classes: channels of the logits; 0 returns the features of the finest level.
        dims: channels of each level, the finest first.
        spatial_dims: 2 for images, 3 for volumes.
        strides: step from each level to the next, for each axis.
        init: as in :func:`draw_weights`.

    Raises:
        ValueError: if there are fewer than two levels, or ``init`` is unknown.
    """

    stages: nn.ModuleList
    decoder: nn.ModuleList
    head: nn.Module

    def __init__(
        self,
        in_chans: int,
        num_classes: int,
        dims: Sequence[int],
        spatial_dims: int,
        strides: Sequence[tuple[int, ...]],
        init: str,
    ) -> None:
        super().__init__()
        if len(dims) < 2:
            raise ValueError(f"dims must have two levels or more, got {tuple(dims)}")
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.num_features = dims[0]
        self.spatial_dims = spatial_dims
        self.init = check_init(init)
        self.grad_checkpointing = False
        self.multiples = tuple(math.prod(steps) for steps in zip(*strides, strict=True))

    def _make_head(self, num_classes: int, **dd: Any) -> nn.Module:
        """Return what turns the decoder's maps, the coarsest first, into logits."""
        return ClassifyFinest(self.num_features, num_classes, self.spatial_dims, **dd)

    def _decode(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the decoder's maps and the attention maps, the coarsest first, of an input of fitting size."""
        *skips, x = self._encode(x)
        maps, attention = [], []
        for level, skip in zip(self.decoder, reversed(skips), strict=True):
            x, coefficients = self._call(level, x, skip)
            maps.append(x)
            attention += coefficients
        return maps, attention

    def _call(self, module: Callable[..., Any], *args: Any) -> Any:
        """Run a part of the network, or run it so that the backward pass does so again."""
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(module, *args)
        return module(*args)

    def _encode(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = self._call(stage, x)
            maps.append(x)
        return maps

    def init_weights(self) -> None:
        """Draw every parameter anew, also after ``to_empty``, as ``init`` says."""
        draw_weights(self, self.init)

    @torch.jit.ignore()
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only what enters the levels for the backward pass; batch norms then see each batch twice."""
        self.grad_checkpointing = enable

    @torch.jit.ignore()
    def no_weight_decay(self) -> set[str]:
        """Return the parameters to exempt from decay beside biases and scales: none."""
        return set()

    @torch.jit.ignore()
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's patterns that sort parameters by depth: the encoder's stages, then the decoder's levels."""
        return {
            "stem": r"^stages\.0\.",
            "blocks": r"^stages\.(\d+)",
            "gating": r"^gating",
            "decoder": r"^decoder\.(\d+)",
        }

    @torch.jit.ignore()
    def get_classifier(self) -> nn.Module:
        """Return the part that holds the class weights."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head.

        Args:
            num_classes: its classes, 0 for none.
        """
        self.num_classes = num_classes
        self.head = self._make_head(num_classes, **get_device_dtype(self)).train(self.training)

    def forward(self, x: Tensor, return_attention: bool = False) -> Union[Tensor, tuple[Tensor, list[Tensor]]]:
        """Classify every pixel or voxel.

        A side that is no multiple of the stride of the coarsest level is continued at its end by repeating the last
        line, and the results are cut to size.

        Args:
            x: images ``[B, C, H, W]`` or volumes ``[B, C, D, H, W]`` of any size.
            return_attention: return the coefficients of every gate, too.

        Returns:
            Logits ``[B, num_classes, *S]``, or features ``[B, dims[0], *S]`` without classes; with
            ``return_attention`` also a list of maps ``[B, 1, *S_i]``, each of the size of its skip connection (that of
            the image divided by the level's stride and rounded up), the coarsest first and the finest last, those of
            one skip connection next to each other.

        Raises:
            ValueError: if the shape does not fit, or batch norm has a single value to train with.
        """
        self._check(x)
        size = x.shape[2:]
        missing = [-side % multiple for side, multiple in zip(size, self.multiples, strict=True)]
        pads = any(missing)
        if pads:
            x = F.pad(x, [n for after in reversed(missing) for n in (0, after)], mode="replicate")
        padded = x.shape[2:]
        maps, attention = self._decode(join_channels(x))
        logits = self.head(maps)
        if x.is_cpu and x.is_contiguous():
            # As on every other device, the logits come as the image came.
            logits = logits.contiguous()
        if pads:
            logits = _cut(logits, size, padded)
            attention = [_cut(a, size, padded) for a in attention]
        return (logits, attention) if return_attention else logits

    def _check(self, x: Tensor) -> None:
        if x.ndim != 2 + self.spatial_dims or x.shape[1] != self.in_chans:
            axes = "D, H, W" if self.spatial_dims == 3 else "H, W"
            raise ValueError(f"input must be [B, {self.in_chans}, {axes}], got {tuple(x.shape)}")
        if self.training:
            fits = all(side <= multiple for side, multiple in zip(x.shape[2:], self.multiples, strict=True))
            if x.shape[0] == 1 and fits:
                raise ValueError(
                    f"batch norm cannot train on one sample of {tuple(x.shape[2:])}, which is one position at the "
                    f"coarsest level; use two or more samples, or a side above {self.multiples}"
                )


class ClassifyFinest(nn.Module):
    """A 1x1 convolution of the finest map.

    Args:
        dim: channels of that map.
        num_classes: channels of the logits, 0 for the map itself.
        spatial_dims: 2 for images, 3 for volumes.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(self, dim: int, num_classes: int, spatial_dims: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.fc = make_conv(dim, num_classes, 1, spatial_dims, **dd) if num_classes > 0 else nn.Identity()

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Classify the last of maps ``[B, C_i, *S_i]``."""
        return self.fc(maps[-1])


def _cut(x: Tensor, size: Sequence[int], padded: Sequence[int]) -> Tensor:
    """Cut a map of the padded image at the end of the image, rounded up to whole positions."""
    for axis, (side, whole) in enumerate(zip(size, padded, strict=True), start=2):
        x = x.narrow(axis, 0, -(-side * x.shape[axis] // whole))
    return x


def build_unet(
    model_cls: type[Any],
    variant: str,
    pretrained: bool,
    filter_fn: Callable[[StateDict, nn.Module], dict[str, Tensor]],
    overrides: dict[str, Any],
    classifier: tuple[str, ...] = ("head.fc",),
    **model_args: Any,
) -> Any:
    """Build an attention U-Net as timm does.

    Args:
        model_cls: the network's class.
        variant: registered name of the model.
        pretrained: load weights.
        filter_fn: brings a state dict into the model's own names.
        overrides: the user's arguments.
        classifier: layers that hold the class weights.
        **model_args: the variant's.

    Raises:
        ValueError: if features are asked for.
    """
    if overrides.pop("features_only", False):
        raise ValueError(f"{variant} is a segmentation network; for its finest features pass num_classes=0")
    overlay = {"classifier": classifier, **(overrides.pop("pretrained_cfg_overlay", None) or {})}
    return build_backbone(model_cls, variant, pretrained, filter_fn, (), overlay, **{**model_args, **overrides})


def unet_cfg(input_size: tuple[int, int, int], num_classes: int, **kwargs: Any) -> dict[str, Any]:
    """Return timm's pretrained cfg of a network without published weights.

    Args:
        input_size: channels and sides of the images it was published for; of volumes the first two sides, as timm has
            no place for a third.
        num_classes: classes.
        **kwargs: entries of the variant.
    """
    return {
        "input_size": input_size,
        "num_classes": num_classes,
        "pool_size": None,
        "crop_pct": 1.0,
        # Weights are adapted to other channels by nobody: a file fits or does not.
        "first_conv": None,
        "paper_ids": "arXiv:1804.03999",
        **kwargs,
    }
