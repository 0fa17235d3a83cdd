"""Attention-gated SonoNet: a classifier of ultrasound scan planes that pools by attention at two scales.

Paper: J. Schlemper et al., "Attention-Gated Networks for Improving Ultrasound Scan Plane Detection",
https://arxiv.org/abs/1804.05338 (MIDL 2018).
Published code https://github.com/ozan-oktay/Attention-Gated-Networks (MIT), without weights.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Optional, Union

import torch
import torch.nn.functional as F
from timm.layers import SelectAdaptivePool2d, get_device_dtype, register_notrace_function
from timm.models import generate_default_cfgs, register_model
from timm.models._manipulate import MATCH_PREV_GROUP
from torch import Tensor, nn

from gatedvision.layers._memory_format import join_channels
from gatedvision.layers.attention_gate import GridAttentionGate
from gatedvision.layers.conv_batch_norm import ConvBatchNorm
from gatedvision.models._gated_unet import check_init, draw_weights
from gatedvision.models._pretrained import StateDict, build_backbone, match_model, rename_published
from gatedvision.models._staged import Stage, StagedBackbone

__all__ = ["SonoNetAG"]

BASE_DIMS = (64, 128, 256, 512, 512)
DEPTHS = (3, 3, 3, 2, 2)
GATED_STAGES = (2, 3)
REDUCTIONS = (1, 2, 4, 8, 16)
AGGREGATIONS = ("deep_sup", "concat", "mean", "ft")
# At the start everything passes a gate.
PSI_BIASES = {"sigmoid": 3.0, "softmax": 10.0}
LOSS_WEIGHTS = (1.0, 0.1, 0.1, 0.1)


@register_notrace_function
def continue_to(x: Tensor, least: int) -> Tensor:
    """Continue sides of maps ``[B, C, H, W]`` below ``least`` pixels by repeating the last line."""
    rows, columns = least - x.shape[2], least - x.shape[3]
    if rows > 0 or columns > 0:
        x = F.pad(x, [0, max(columns, 0), 0, max(rows, 0)], mode="replicate")
    return x


class AggregationHead(nn.Module):
    """Classifiers of pooled features of several scales.

    Args:
        dims: channels of the feature of each scale.
        num_classes: classes, 0 for none.
        pool_type: timm's name of the pooling of the last stage's map, ``""`` for none.
        aggregation: as in :class:`SonoNetAG`.
        drop_rate: dropout before the classifiers, 0 to 1.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if there are classes but no pooling, or the aggregation is unknown.
    """

    def __init__(
        self,
        dims: Sequence[int],
        num_classes: int,
        pool_type: str = "avg",
        aggregation: str = "deep_sup",
        drop_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if aggregation not in AGGREGATIONS:
            raise ValueError(f"aggregation must be one of {', '.join(AGGREGATIONS)}, got {aggregation!r}")
        if num_classes > 0 and not pool_type:
            raise ValueError(f"{num_classes} classes need pooled features; pass global_pool='avg', or num_classes=0")
        dd = {"device": device, "dtype": dtype}
        self.drop_rate = drop_rate
        self.aggregation = aggregation
        self.global_pool = SelectAdaptivePool2d(pool_type=pool_type, flatten=bool(pool_type))
        dims = (*dims[:-1], dims[-1] * self.global_pool.feat_mult())
        self.dims = dims
        self.num_features = sum(dims)
        self.fc = nn.Identity()
        self.fcs = nn.ModuleList()
        if num_classes > 0:
            if aggregation in ("deep_sup", "concat"):
                self.fc = nn.Linear(self.num_features, num_classes, **dd)
            elif aggregation == "ft":
                self.fc = nn.Linear(len(dims) * num_classes, num_classes, **dd)
            if aggregation != "concat":
                self.fcs = nn.ModuleList(nn.Linear(dim, num_classes, **dd) for dim in dims)

    def classify(self, features: list[Tensor]) -> list[Tensor]:
        """Return logits of features ``[B, C_i]``: of all scales together, then of each scale, if any of its own."""
        features = [F.dropout(x, self.drop_rate, self.training) for x in features]
        single = [fc(features[index]) for index, fc in enumerate(self.fcs)]
        if self.aggregation == "mean":
            together = torch.stack([x.softmax(1) for x in single]).mean(0).log()
        elif self.aggregation == "ft":
            together = self.fc(torch.cat(single, 1))
        else:
            together = self.fc(torch.cat(features, 1))
        return [together] + single


class SonoNetAG(StagedBackbone):
    """SonoNet with gates on its third and fourth stage, whose signal is the fifth.

    Each gate's attention sums to 1 over positions, and so the sum over space of what passes it is a weighted mean; it
    stands beside the mean of the fifth stage's map. Images may have any size; sides below 16 pixels are continued by
    repeating the last line.

    Args:
        in_chans: channels of the image.
        num_classes: classes, 0 for none.
        global_pool: timm's name of the pooling of the fifth stage's map; ``""`` returns it as it is.
        feature_scale: divides the widths 64, 128, 256, 512 and 512 of the stages: 8, 4 or 2 as published.
        aggregation: ``"deep_sup"``: one classifier of all features together, the prediction, and for training one of
            each beside it (:meth:`forward_all`); ``"concat"``: the first only; ``"mean"``: classifiers of each, the
            mean of whose probabilities is the prediction (returned as logarithms); ``"ft"``: a linear layer of the
            logits of these.
        weighting: of positions, as in :func:`~gatedvision.layers.attention_gate.weigh_positions`.
        align_corners: of linear resampling.
        drop_rate: dropout before the classifiers, 0 to 1.
        init: ``"kaiming"`` as published, or ``"framework"`` for PyTorch's defaults.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if an option is unknown or ``feature_scale`` does not divide 64.
    """

    if TYPE_CHECKING:  # TorchScript would take it for a type of its own.
        gates: Any

    def __init__(
        self,
        in_chans: int = 1,
        num_classes: int = 14,
        global_pool: str = "avg",
        feature_scale: int = 8,
        aggregation: str = "deep_sup",
        weighting: str = "mean_flow",
        align_corners: bool = False,
        drop_rate: float = 0.0,
        init: str = "kaiming",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if feature_scale < 1 or BASE_DIMS[0] % feature_scale != 0:
            raise ValueError(f"feature_scale must divide {BASE_DIMS[0]}, got {feature_scale}")
        dd = {"device": device, "dtype": dtype}
        dims = [dim // feature_scale for dim in BASE_DIMS]
        super().__init__(in_chans, num_classes, dims, REDUCTIONS)
        self.init = check_init(init)
        self.first_gated = GATED_STAGES[0]
        self.least_side = REDUCTIONS[-1]
        self.stem = ConvBatchNorm(in_chans, dims[0], **dd)
        stages = [Stage([ConvBatchNorm(dims[0], dims[0], **dd) for _ in range(DEPTHS[0] - 1)])]
        for (before, dim), depth in zip(pairwise(dims), DEPTHS[1:], strict=True):
            blocks = [ConvBatchNorm(dim if block else before, dim, **dd) for block in range(depth)]
            stages.append(Stage(blocks, nn.MaxPool2d(2)))
        self.stages = nn.ModuleList(stages)
        self.norm = nn.Identity()
        psi_bias = PSI_BIASES.get(weighting)
        self.gates = nn.ModuleList(
            GridAttentionGate(
                dims[stage],
                dims[-1],
                dims[-1],
                subsample=1,
                weighting=weighting,
                strided_gating=True,
                transform=False,
                psi_bias=psi_bias,
                align_corners=align_corners,
                **dd,
            )
            for stage in GATED_STAGES
        )
        scales = [*(gate.dim for gate in self.gates), dims[-1]]
        self.head = AggregationHead(scales, num_classes, global_pool, aggregation, drop_rate, **dd)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw every parameter anew, also after ``to_empty``, as ``init`` says."""
        draw_weights(self, self.init)

    @torch.jit.ignore()
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's patterns; the gates go with the last block."""
        matcher = super().group_matcher(coarse)
        blocks = matcher["blocks"]
        matcher["blocks"] = [*([(blocks, None)] if isinstance(blocks, str) else blocks), (r"^gates", MATCH_PREV_GROUP)]
        return matcher

    def reset_classifier(self, num_classes: int, global_pool: Optional[str] = None) -> None:
        """Replace the classifiers.

        Args:
            num_classes: their classes, 0 for none.
            global_pool: timm's name of the pooling, ``""`` for none, ``None`` to keep it.
        """
        self.num_classes = num_classes
        pool_type = self.head.global_pool.pool_type if global_pool is None else global_pool
        scales = [*(gate.dim for gate in self.gates), self.num_features]
        head = AggregationHead(
            scales, num_classes, pool_type, self.head.aggregation, self.head.drop_rate, **get_device_dtype(self)
        )
        self.head = head.train(self.training)

    def prune_intermediate_layers(
        self, indices: Union[int, list[int]] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the maps of :meth:`forward_intermediates` do not need.

        Args:
            indices: as in :meth:`forward_intermediates`.
            prune_norm: without effect, as there is no last norm.
            prune_head: remove gates, pooling and classifiers, too; they go anyway with the last stage.

        Returns:
            The indices, counted from the first stage.
        """
        stages = len(self.stages)
        taken = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if prune_head or len(self.stages) < stages:
            self.gates = nn.ModuleList()
            self.reset_classifier(0, "")
        return taken

    def _embed(self, x: Tensor) -> Tensor:
        return self.stem(join_channels(continue_to(x, self.least_side)))

    def _pool(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Return the features ``[B, C_i]`` of each scale, the attention maps, and the last stage's map."""
        x = self._embed(x)
        skips: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        features: list[Tensor] = []
        attention: list[Tensor] = []
        for index, gate in enumerate(self.gates):
            skip = skips[index + self.first_gated]
            if torch.jit.is_scripting():
                # It knows no arguments that only go by name.
                gated, coefficients = gate.attend(skip, x)
            else:
                gated, coefficients = gate(x=skip, gating=x, return_attention=True)
            features.append(gated.sum((2, 3)))
            attention.append(coefficients)
        features.append(self.head.global_pool(x))
        return features, attention, x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Classify pooled features ``[B, head_hidden_size]``; ``pre_logits`` returns them.

        The gates need three stages' maps, and so the last one's, ``forward_features``, is not enough to classify.

        Raises:
            ValueError: for a map.
        """
        if x.ndim != 2:
            raise ValueError(
                f"forward_head takes pooled features [B, {self.head.num_features}], got {list(x.shape)}; a map of the "
                "last stage is not enough, call the model"
            )
        return x if pre_logits or self.num_classes == 0 else self.head.classify(list(x.split(self.head.dims, 1)))[0]

    @torch.jit.ignore()
    def forward_all(self, x: Tensor, return_attention: bool = False) -> Any:
        """Classify images with every classifier, as deep supervision wants; published losses weigh 1, .1, .1 and .1.

        Args:
            x: images ``[B, C, H, W]``.
            return_attention: return the attention maps, too.

        Returns:
            List of logits ``[B, num_classes]``: the prediction's, then those of each scale, the finest first. With
            ``return_attention`` also the maps ``[B, 1, H_i, W_i]`` of the gates, of stride 4 and 8.
        """
        features, attention, _ = self._pool(x)
        logits = self.head.classify(features)
        return (logits, attention) if return_attention else logits

    def forward(self, x: Tensor) -> Tensor:
        """Classify images ``[B, C, H, W]``; without classes, return pooled features, or the last map unpooled."""
        if self.head.global_pool.pool_type == "":
            return self.forward_features(x)
        features, _, _ = self._pool(x)
        if self.num_classes == 0:
            return torch.cat(features, 1)
        return self.head.classify(features)[0]


CLASSIFIER = ("head.fc", *(f"head.fcs.{scale}" for scale in range(3)))
PUBLISHED_NAMES = (
    (r"^conv1\.conv1\.", "stem.conv1."),
    (r"^conv1\.conv(\d)\.", lambda match: f"stages.0.blocks.{int(match[1]) - 2}."),
    (r"^conv(\d)\.conv(\d)\.", lambda match: f"stages.{int(match[1]) - 1}.blocks.{int(match[2]) - 1}."),
    (r"^(stages\.\d\.blocks\.\d)\.0\.", r"\1.conv."),
    (r"^(stages\.\d\.blocks\.\d)\.1\.", r"\1.norm."),
    (r"^stem\.conv1\.0\.", "stem.conv."),
    (r"^stem\.conv1\.1\.", "stem.norm."),
    (r"^compatibility_score(\d)\.", lambda match: f"gates.{int(match[1]) - 1}."),
    (r"^(gates\.\d)\.theta\.", r"\1.proj_x.conv."),
    (r"^(gates\.\d)\.phi\.", r"\1.proj_gating.conv."),
    (r"^(gates\.\d)\.psi\.", r"\1.psi.conv."),
    (r"^classifier(\d)\.", lambda match: f"head.fcs.{int(match[1]) - 1}."),
    (r"^classifier\.", "head.fc."),
)


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """Bring a state dict in the names of the published code, or in ours, into the model's.

    Args:
        state_dict: tensors by name, bare or under ``model``.
        model: the model to load them into.

    Raises:
        ValueError: if it is not a state dict of such a model.
    """
    return match_model(rename_published(state_dict, PUBLISHED_NAMES), model)


default_cfgs = generate_default_cfgs(
    {
        "sononet_ag": {
            "input_size": (1, 208, 272),
            "num_classes": 14,
            "pool_size": (13, 17),
            "crop_pct": 1.0,
            "mean": (0.0,),
            "std": (1.0,),
            "first_conv": "stem.conv",
            "classifier": CLASSIFIER,
            "license": "mit",
            "paper_ids": "arXiv:1804.05338",
            "origin_url": "https://github.com/ozan-oktay/Attention-Gated-Networks",
        }
    }
)


@register_model
def sononet_ag(pretrained: bool = False, **kwargs: Any) -> SonoNetAG:
    """Attention-gated SonoNet, 0.18 M, 0.71 M or 2.80 M parameters at ``feature_scale`` 8, 4 or 2."""
    overlay = kwargs.pop("pretrained_cfg_overlay", None) or {}
    if (aggregation := kwargs.get("aggregation")) in ("concat", "mean"):
        overlay = {"classifier": CLASSIFIER[:1] if aggregation == "concat" else CLASSIFIER[1:], **overlay}
    levels = range(len(REDUCTIONS))
    return build_backbone(SonoNetAG, "sononet_ag", pretrained, checkpoint_filter_fn, levels, overlay, **kwargs)
