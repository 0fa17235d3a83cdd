"""Object detection and instance segmentation: torchvision's detectors on feature maps of any timm backbone."""

import colorsys
import inspect
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.ops.feature_pyramid_network import (
    ExtraFPNBlock,
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from gatedvision.heads.hor_fpn import HorFPN
from gatedvision.heads.simple_feature_pyramid import SimpleFeaturePyramid
from gatedvision.tasks._backbone import backbone_losses, create_backbone

Detector = Literal["mask_rcnn", "faster_rcnn", "retinanet", "fcos"]
Neck = Literal["fpn", "hor_fpn", "simple"]
_DETECTORS: dict[str, Any] = {"mask_rcnn": MaskRCNN, "faster_rcnn": FasterRCNN, "retinanet": RetinaNet, "fcos": FCOS}
# Strides of the backbone's maps that each neck's levels stand on; the two detectors without proposals leave out the
# finest, and go on with two coarser levels of their own in the place of one.
_STRIDES_OF_PROPOSALS = (4, 8, 16, 32)
_STRIDES_OF_DENSE = (8, 16, 32)


class Detection(BaseModel):
    """A detector of objects, with or without masks, in images of any size.

    The model resizes and normalises the images of a batch itself, on its device, and pads them to a common multiple of
    32 pixels; what it finds is given in pixels of the image as it came.

    Args:
        backbone: ``model_name`` and further keyword arguments of ``timm.create_model``, for example
            ``dict(model_name="vig_h_t", drop_path_rate=0.2)``. Any timm model with ``forward_intermediates`` will do.
        num_classes: classes of objects, the background not among them.
        detector: ``"mask_rcnn"``, ``"faster_rcnn"`` (no masks), ``"retinanet"`` or ``"fcos"``.
        neck: ``"fpn"``, ``"hor_fpn"`` (HorNet's) or, for backbones of a single stride, ``"simple"`` (ViTDet's).
        min_size: the short side that images are resized to, pixels. Training draws one of several, evaluation takes
            the last.
        max_size: what their long side is limited to, pixels.
        norm_maps: normalise each of the backbone's maps over its channels first, as the published pyramids of networks
            without a norm at the end of each stage do. (HorNet and ViG-H have such norms of their own, for backbones
            that were published with them: ``feature_norms=True``.)
        channels: channels of the pyramid.
        grad_checkpointing: recompute the backbone's activations in the backward pass, which saves memory.
        neck_options: further arguments of the neck: those of :class:`HorFPN`, :class:`SimpleFeaturePyramid` or
            torchvision's ``FeaturePyramidNetwork``.
        detector_options: further arguments of torchvision's detector, such as ``dict(box_detections_per_img=300)``.

    Raises:
        ValueError: an option is out of range, timm knows no model of that name, or the backbone's maps do not suit
            the neck.
        TypeError: ``backbone`` has no ``model_name``, or an option of the backbone, neck or detector does not exist.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        num_classes: int,
        detector: Detector = "mask_rcnn",
        neck: Neck = "fpn",
        min_size: int | Sequence[int] = 800,
        max_size: int = 1333,
        norm_maps: bool = False,
        channels: int = 256,
        grad_checkpointing: bool = False,
        neck_options: dict[str, Any] | None = None,
        detector_options: dict[str, Any] | None = None,
    ) -> None:
        # Pinned batches then travel to the GPU while it still computes.
        super().__init__(data_preprocessor=BaseDataPreprocessor(non_blocking=True))
        if detector not in _DETECTORS:
            raise ValueError(f"detector must be one of {', '.join(_DETECTORS)}, got {detector!r}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        sizes = (min_size,) if isinstance(min_size, int) else tuple(min_size)
        if not sizes or min(sizes) < 1 or max_size < max(sizes):
            raise ValueError(f"min_size must be positive and no larger than max_size, got {min_size} and {max_size}")
        self.num_classes = num_classes
        has_proposals = detector in ("mask_rcnn", "faster_rcnn")
        body = create_backbone(**{"features_only": True, "feature_cls": "getter", **backbone})
        pyramid = Pyramid(
            body,
            neck,
            strides=_STRIDES_OF_PROPOSALS if has_proposals else _STRIDES_OF_DENSE,
            extra=_coarser_levels(detector, neck, body.feature_info.channels()[-1], channels),
            out_channels=channels,
            norm_maps=norm_maps,
            **(neck_options or {}),
        )
        # Where boxes are proposed, label 0 is the background.
        self.first_label = 1 if has_proposals else 0
        config = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD, **(body.pretrained_cfg or {})}
        options = dict(detector_options or {})
        _check_options(_DETECTORS[detector], options)
        self.detector = _DETECTORS[detector](
            pyramid,
            num_classes + self.first_label,
            min_size=sizes,
            max_size=max_size,
            image_mean=list(config["mean"]),
            image_std=list(config["std"]),
            **options,
        )
        for module in _heads(self.detector):
            module.register_forward_hook(_to_float32)
        if grad_checkpointing:
            self.backbone.set_grad_checkpointing(True)

    @property
    def backbone(self) -> Any:
        """The timm model, without its head."""
        return self.detector.backbone.body.model

    def init_weights(self) -> None:
        """Do nothing: all parts initialised themselves, or loaded their weights, when they were built.

        mmengine would otherwise call ``init_weights`` of the backbone and overwrite pretrained weights.
        """

    def compile_backbone(self, **options: Any) -> None:
        """Compile the backbone in place, which leaves the names in the state dict alone.

        Args:
            options: keyword arguments of ``torch.compile``; ``dynamic=True`` spares a compilation for each new size.
        """
        self.detector.backbone.body.compile(**options)

    def no_weight_decay(self) -> set[str]:
        """Names (or glob patterns) of the parameters that the backbone wants free of weight decay."""
        names = self.backbone.no_weight_decay() if hasattr(self.backbone, "no_weight_decay") else ()
        return {f"detector.backbone.body.model.{name}" for name in names}

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  mmengine's base calls targets data_samples
        self, inputs: list[Tensor], targets: list[dict[str, Any]] | None = None, mode: str = "tensor"
    ) -> list[Tensor] | dict[str, Tensor] | list[dict[str, Any]]:
        """Detect the objects in a batch of images.

        Args:
            inputs: images ``[3, H_i, W_i]`` of any sizes; bytes, 0 to 255, or numbers from 0 to 1.
            targets: for each image ``boxes`` ``[N, 4]`` (left, top, right, bottom, in pixels) of positive area,
                ``labels`` ``[N]`` from 0 and, for Mask R-CNN, ``masks`` ``[N, H_i, W_i]``, needed by ``mode="loss"``;
                ``image_id`` is passed on to the predictions.
            mode: ``"tensor"``, ``"loss"`` or ``"predict"``.

        Returns:
            The levels of the pyramid ``[B, channels, H, W]``, the finest first, for ``"tensor"``; the losses by name
            for ``"loss"``, of the model in training mode, with ``loss_backbone`` and its parts, ``auxiliary/<name>``,
            if the backbone has auxiliary losses; for ``"predict"`` a dict for each image: ``boxes``
            ``[N, 4]``, ``scores`` ``[N]`` in descending order, ``labels`` ``[N]``, from Mask R-CNN also ``masks``
            ``[N, H_i, W_i]`` (bool), and ``image_id`` where given.

        Raises:
            ValueError: ``mode`` is none of the three, ``"loss"`` lacks targets or masks or is asked of a model in
                evaluation mode, ``"predict"`` of one in training mode, or an image is so long that at ``max_size`` its
                short side vanishes.
        """
        self._check_sides(inputs)
        images = [image / 255 if image.dtype == torch.uint8 else image for image in inputs]
        if mode == "tensor":
            batch, _ = self.detector.transform(images)
            return list(self.detector.backbone(batch.tensors).values())
        if mode == "predict":
            if self.training:
                raise ValueError('mode="predict" needs the model in evaluation mode: call eval()')
            return self._predict(images, targets)
        if mode != "loss":
            raise ValueError(f'mode must be "tensor", "loss" or "predict", got {mode!r}')
        if targets is None:
            raise ValueError('mode="loss" needs targets')
        if not self.training:
            raise ValueError('mode="loss" needs the model in training mode: call train()')
        if isinstance(self.detector, MaskRCNN) and not all("masks" in target for target in targets):
            raise ValueError("Mask R-CNN learns from masks: give the data set with_masks=True")
        keys = ("boxes", "labels", "masks")
        targets = [{key: target[key] for key in keys if key in target} for target in targets]
        for target in targets:
            target["labels"] = target["labels"] + self.first_label
        losses = self.detector(images, targets)
        # mmengine sums up what is called a loss.
        losses = {name if name.startswith("loss") else f"loss_{name}": loss for name, loss in losses.items()}
        auxiliary, parts = backbone_losses(self.backbone)
        return losses if auxiliary is None else {**losses, "loss_backbone": auxiliary, **parts}

    def draw(
        self, image: Tensor, prediction: dict[str, Any], classes: Sequence[str] | None = None, min_score: float = 0.3
    ) -> Image.Image:
        """Draw what was found over an image.

        Args:
            image: ``[3, H, W]``, bytes or numbers from 0 to 1.
            prediction: the image's entry of what ``mode="predict"`` returns.
            classes: names of the classes, numbers by default.
            min_score: leave out what is less certain.
        """
        pixels = (image if image.dtype == torch.uint8 else (image * 255).round().clamp(0, 255).byte()).cpu()
        kept = prediction["scores"] >= min_score
        found = {name: prediction[name][kept].cpu() for name in ("boxes", "scores", "labels")}
        if not len(found["boxes"]):
            return to_pil_image(pixels)
        colors: list[Any] = [_color(label) for label in found["labels"].tolist()]
        if "masks" in prediction:
            pixels = draw_segmentation_masks(pixels, prediction["masks"][kept].cpu(), alpha=0.5, colors=colors)
        names = [classes[label] if classes else str(label) for label in found["labels"].tolist()]
        captions = [f"{name} {score:.2f}" for name, score in zip(names, found["scores"].tolist(), strict=True)]
        return to_pil_image(draw_bounding_boxes(pixels, found["boxes"], captions, colors=colors, width=2))

    def _predict(self, images: list[Tensor], targets: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
        predictions = self.detector(images)
        for index, prediction in enumerate(predictions):
            prediction["labels"] = prediction["labels"] - self.first_label
            if "masks" in prediction:
                prediction["masks"] = prediction["masks"][:, 0] > 0.5
            if targets is not None and "image_id" in targets[index]:
                prediction["image_id"] = targets[index]["image_id"]
        return predictions

    def _check_sides(self, images: list[Tensor]) -> None:
        """Refuse images whose short side would round to nothing.

        Raises:
            ValueError: there is one.
        """
        limit = self.detector.transform.max_size
        for image in images:
            height, width = image.shape[-2:]
            if min(height, width) * limit < max(height, width):
                raise ValueError(
                    f"an image of {width}x{height} pixels has no short side left at max_size={limit}; crop it"
                )


class Pyramid(nn.Module):
    """A backbone and a neck, in the form in which torchvision's detectors take them.

    Args:
        body: timm's ``features_only`` model around a backbone.
        neck: see :class:`Detection`.
        strides: strides of the levels that the neck makes, pixels.
        extra: what adds the coarser levels.
        out_channels: channels of the levels.
        norm_maps: see :class:`Detection`.
        **options: further arguments of the neck.

    Raises:
        ValueError: the backbone gives no maps, or maps of other strides.
    """

    def __init__(
        self,
        body: Any,
        neck: str,
        strides: Sequence[int],
        extra: ExtraFPNBlock,
        out_channels: int,
        norm_maps: bool,
        **options: Any,
    ) -> None:
        super().__init__()
        name = type(body.model).__name__
        if not hasattr(body.model, "forward_intermediates"):
            raise ValueError(f"{name} cannot be a backbone here: it has no forward_intermediates")
        found, dims = body.feature_info.reduction(), body.feature_info.channels()
        self.out_channels = out_channels
        self.body = body
        if neck == "simple":
            self.picks = [len(dims) - 1]
            options = {"scales": [found[-1] / stride for stride in strides], **options}
        else:
            missing = [stride for stride in strides if stride not in found]
            if missing:
                remedy = '; neck="simple" is for backbones of a single stride' if len(set(found)) == 1 else ""
                raise ValueError(f"{name} has maps of strides {found}, and {neck!r} needs {missing}{remedy}")
            # The last map of a stride.
            self.picks = [len(found) - 1 - found[::-1].index(stride) for stride in strides]
        dims = [dims[pick] for pick in self.picks]
        self.norms = nn.ModuleList(LayerNorm2d(dim) if norm_maps else nn.Identity() for dim in dims)
        self.neck = _create_neck(neck, dims, out_channels, options)
        self.extra = extra

    def forward(self, x: Tensor) -> "OrderedDict[str, Tensor]":
        """Build the pyramid.

        Args:
            x: normalised images ``[B, 3, H, W]``, sides divisible by 32.

        Returns:
            Levels ``[B, out_channels, H_i, W_i]`` in float32 (anchors and proposals take their type from them), named
            ``"0"``, ``"1"``, ... and what ``extra`` calls its own.
        """
        maps = self.body(x)
        maps = [norm(maps[pick]) for norm, pick in zip(self.norms, self.picks, strict=True)]
        levels = self.neck(maps)
        levels, names = self.extra(levels, maps, [str(index) for index in range(len(levels))])
        return OrderedDict((name, level.float()) for name, level in zip(names, levels, strict=True))


class _FPN(FeaturePyramidNetwork):
    """torchvision's feature pyramid network on a list of maps."""

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        named = OrderedDict((str(index), x) for index, x in enumerate(maps))
        return list(super().forward(named).values())


def _create_neck(neck: str, dims: list[int], dim: int, options: dict[str, Any]) -> nn.Module:
    """Build a neck.

    Raises:
        ValueError: there is none of that name.
    """
    if neck == "fpn":
        return _FPN(dims, dim, **options)
    if neck == "hor_fpn":
        return HorFPN(dims, dim, num_levels=len(dims), **options)
    if neck == "simple":
        return SimpleFeaturePyramid(dims[-1], dim, **options)
    raise ValueError(f"neck must be one of {', '.join(get_args(Neck))}, got {neck!r}")


def _coarser_levels(detector: str, neck: str, in_dim: int, dim: int) -> ExtraFPNBlock:
    """What continues the pyramid: one level of every second pixel for proposals, else two by convolutions.

    RetinaNet's begin at the backbone's last map, if that has the stride of the last level; FCOS's at the last level.
    """
    if detector in ("mask_rcnn", "faster_rcnn"):
        return LastLevelMaxPool()
    if detector == "retinanet" and neck != "simple":
        levels = LastLevelP6P7(in_dim, dim)
        # torchvision decides by the widths, which may agree.
        levels.use_P5 = False
        return levels
    return LastLevelP6P7(dim, dim)


def _check_options(detector: type, options: dict[str, Any]) -> None:
    """Refuse options that torchvision would swallow.

    Raises:
        TypeError: there is one.
    """
    names = [name for kind in inspect.getmro(detector) for name in inspect.signature(kind.__init__).parameters]
    unknown = [name for name in options if name not in names]
    if unknown:
        raise TypeError(f"{detector.__name__} has no option {', '.join(unknown)}")


def _color(label: int) -> tuple[int, int, int]:
    """A colour of its own for each class: steps of the golden section go round the circle of hues evenly."""
    red, green, blue = colorsys.hsv_to_rgb(0.618 * label % 1.0, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _heads(detector: Any) -> list[Any]:
    """What predicts scores and boxes."""
    if not isinstance(detector, FasterRCNN):
        return [detector.head]
    heads = [detector.rpn.head, detector.roi_heads.box_predictor]
    return [*heads, detector.roi_heads.mask_predictor] if isinstance(detector, MaskRCNN) else heads


def _to_float32(_module: nn.Module, _inputs: Any, outputs: Any) -> Any:
    """Take predictions out of autocast: coordinates above 256 pixels are not whole numbers in bfloat16."""
    return tree_map(lambda x: x.float(), outputs)
