"""The timm contract, written once for every network made of ``stem``, ``stages``, ``norm`` and ``head``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Optional, Union

import torch
from timm.layers import get_device_dtype
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn


def drop_path_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Return every block's probability of dropping a branch: from 0 at the first linearly to ``rate`` at the last.

    Args:
        rate: probability at the last block, 0 to 1.
        depths: blocks of each stage.

    Returns:
        One list for each stage.
    """
    last = max(sum(depths) - 1, 1)
    starts = [sum(depths[:stage]) for stage in range(len(depths))]
    return [
        [rate * (start + block) / last for block in range(depth)] for start, depth in zip(starts, depths, strict=True)
    ]


class Stage(nn.Module):
    """Blocks at one resolution, after the step down to it; activations are recomputed block by block.

    Args:
        blocks: the blocks, run in order.
        downsample: what comes before them; nothing by default.
    """

    def __init__(self, blocks: Sequence[nn.Module], downsample: Optional[nn.Module] = None) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = nn.Identity() if downsample is None else downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Run the step down and the blocks on a map."""
        x = self.downsample(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)


class StagedBackbone(nn.Module):
    """Base class of the backbones: everything that timm asks of a model and that does not depend on its family.

    A family sets ``stem``, ``stages`` (a list of modules with a flag
    ``grad_checkpointing``), ``norm`` and ``head`` (a timm ``ClassifierHead`` on ``[B, C, H, W]``), in this
    order. In an isotropic network every block is a stage. What runs through the stages may be laid out as
    the family likes; ``_embed`` makes it from the image and ``_to_map`` turns it into ``[B, C, H, W]``.

    Args:
        in_chans: channels of the image.
        num_classes: classes of the head, 0 for none.
        dims: channels after each stage.
        reductions: stride of each stage's map against the image, pixels.
    """

    if TYPE_CHECKING:  # TorchScript would take these for types of its own.
        stem: nn.Module
        stages: Any
        norm: nn.Module
        head: Any

    # The format of the maps that stages pass on; None where it takes more than a map.
    passed_on: ClassVar[Optional[str]] = "NHWC"
    # TorchScript would try to compile the property.
    __jit_unused_properties__ = ["head_hidden_size"]

    def __init__(self, in_chans: int, num_classes: int, dims: Sequence[int], reductions: Sequence[int]) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.num_features = dims[-1]
        self.feature_info = [
            {"num_chs": dim, "reduction": reduction, "module": f"stages.{index}"}
            for index, (dim, reduction) in enumerate(zip(dims, reductions, strict=True))
        ]

    @property
    def head_hidden_size(self) -> int:
        """Width of the pooled features that the classifier sees."""
        return self.head.num_features

    def init_weights(self) -> None:
        """Draw every parameter anew, also after ``to_empty``.

        Children come before their parents, so that a module's own rule wins over its parts' defaults.
        """
        for module in reversed(list(self.modules())):
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()

    @torch.jit.ignore()
    def no_weight_decay(self) -> set[str]:
        """Return the parameters to exempt from decay beside biases and scales: none."""
        return set()

    @torch.jit.ignore()
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's patterns that sort parameters by depth: per stage if ``coarse``, else per block."""
        by_block = [
            (r"^stages\.(\d+)\.downsample", (0,)),
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^stages\.(\d+)", None),
        ]
        return {
            "stem": r"^(?:stem|pos_embed)",
            "blocks": r"^stages\.(\d+)" if coarse else by_block,
        }

    @torch.jit.ignore()
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the blocks' inputs for the backward pass and recompute the rest."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    @torch.jit.ignore()
    def get_classifier(self) -> nn.Module:
        """Return the layer that holds the class weights."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: Optional[str] = None) -> None:
        """Replace the classifier.

        Args:
            num_classes: its classes, 0 for none.
            global_pool: timm's name of the pooling, ``""`` for none, ``None`` to keep it.
        """
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool, in_features=self.num_features, **get_device_dtype(self))

    def _embed(self, x: Tensor) -> Tensor:
        """Turn the image into what enters the first stage."""
        return self.stem(x)

    def _to_map(self, stream: Tensor, norm: bool) -> Tensor:
        """Turn what leaves a stage into ``[B, C, H, W]``, through the last norm if asked for."""
        return self.norm(stream) if norm else stream

    def _tap(self, stream: Tensor, index: int, norm: bool) -> Tensor:
        """Return stage ``index``'s feature map; the last norm fits maps of the last width only."""
        return self._to_map(stream, norm and self.feature_info[index]["num_chs"] == self.num_features)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Optional[Union[int, list[int]]] = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Union[list[Tensor], tuple[Tensor, list[Tensor]]]:
        """Collect the maps after chosen stages.

        Args:
            x: images ``[B, C, H, W]``.
            indices: the stages, negative from the end; a number for the last so many, ``None`` for all.
            norm: apply the last norm to every map it fits.
            stop_early: do not run stages behind the last chosen one.
            output_fmt: ``"NCHW"`` or ``"NHWC"``.
            intermediates_only: leave out the final features.

        Returns:
            The maps, after the final features ``[B, C, H, W]`` unless left out.

        Raises:
            ValueError: for another ``output_fmt``.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt must be 'NCHW' or 'NHWC', got {output_fmt!r}")
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        stages = self.stages[: max_index + 1] if stop_early else self.stages

        stream = self._embed(x)
        intermediates = []
        for index, stage in enumerate(stages):
            stream = stage(stream)
            if index in take_indices:
                tap = self._tap(stream, index, norm)
                intermediates.append(tap if output_fmt == "NCHW" else tap.permute(0, 2, 3, 1))
        if intermediates_only:
            return intermediates
        # The last norm belongs behind the last stage.
        return self._to_map(stream, len(stages) == len(self.stages)), intermediates

    def prune_intermediate_layers(
        self, indices: Union[int, list[int]] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the maps of :meth:`forward_intermediates` do not need.

        Args:
            indices: as in :meth:`forward_intermediates`.
            prune_norm: remove the last norm, too; it goes anyway if it does not fit the last map left.
            prune_head: remove pooling and classifier, too; they go anyway with the last stage.

        Returns:
            The indices, counted from the first stage.
        """
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        shortened = max_index < len(self.stages) - 1
        self.stages = self.stages[: max_index + 1]
        self.feature_info = self.feature_info[: max_index + 1]
        num_features = self.feature_info[-1]["num_chs"]
        if prune_norm or num_features != self.num_features:
            self.norm = nn.Identity()
        self.num_features = num_features
        if prune_head or shortened:
            self.reset_classifier(0, "")
        return take_indices

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the normed map of the last stage, ``[B, C, H, W]``."""
        stream = self._embed(x)
        for stage in self.stages:
            stream = stage(stream)
        return self._to_map(stream, True)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool a map and classify it; ``pre_logits`` stops after pooling."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images ``[B, C, H, W]`` of any size, normalised as the pretrained cfg says."""
        return self.forward_head(self.forward_features(x))
