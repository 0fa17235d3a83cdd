"""Semantic segmentation: a timm backbone, a head on its feature maps, and inference on whole images or windows."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.registry import MODELS
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import LayerNorm2d, convert_sync_batchnorm
from torch import Tensor, nn

from gatedvision.heads.simple_feature_pyramid import SimpleFeaturePyramid
from gatedvision.tasks._backbone import backbone_losses, create_backbone, image_costs
from gatedvision.tasks._dense_inference import DenseInference, resize
from gatedvision.tasks._label_picture import draw_labels
from gatedvision.tasks._pixels import to_bytes
from gatedvision.tasks._stack import stack_tensors


class Segmentation(BaseModel):
    """A backbone whose feature maps a head turns into a class for each pixel, trained with cross entropy.

    The model normalises images itself. Where its batch norms run in several processes on GPUs, those of the heads take
    their statistics over all of them, since a GPU has few images only.

    Args:
        backbone: ``model_name`` and further keyword arguments of ``timm.create_model``, for example
            ``dict(model_name="vig_h_t", drop_path_rate=0.2)``. Any timm model with ``forward_intermediates`` will do;
            ``out_indices`` chooses its maps, the last four by default. A backbone whose maps all have one stride gets
            a :class:`SimpleFeaturePyramid` on the last of them.
        num_classes: classes.
        head: ``type``, one of :mod:`gatedvision.heads` such as ``UPerHead``, and its further arguments; it is called
            with ``in_dims`` and ``num_classes`` beside them.
        auxiliary_head: a second head that is only trained, such as ``dict(type=FCNHead)``; ``None`` for none.
        auxiliary_weight: weight of its loss.
        ignore_index: label of pixels that count neither in the loss nor in the metrics.
        pyramid_dim: channels of the simple feature pyramid; ``None`` leaves it out, for a head on the maps themselves.
        norm_maps: normalise each of the backbone's maps over its channels first, as the published recipes of networks
            without a norm at the end of each stage do.
        grad_checkpointing: recompute the backbone's activations in the backward pass, which saves memory.
        inference: arguments of :class:`DenseInference`: how an image is resized, cut into windows, scaled and flipped.

    Raises:
        ValueError: timm knows no model of that name, it gives no feature maps, or an option is out of range.
        TypeError: ``backbone`` has no ``model_name``, a head has no ``type``, or they do not take an argument.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Mapping[str, Any],
        num_classes: int,
        head: Mapping[str, Any],
        auxiliary_head: Mapping[str, Any] | None = None,
        auxiliary_weight: float = 0.4,
        ignore_index: int = 255,
        pyramid_dim: int | None = 256,
        norm_maps: bool = False,
        grad_checkpointing: bool = False,
        inference: Mapping[str, Any] | None = None,
    ) -> None:
        # Pinned batches then travel to the GPU while it still computes.
        super().__init__(data_preprocessor=BaseDataPreprocessor(non_blocking=True))
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2 (the background counts), got {num_classes}")
        if 0 <= ignore_index < num_classes:
            raise ValueError(f"ignore_index must not be one of the classes 0..{num_classes - 1}, got {ignore_index}")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.auxiliary_weight = auxiliary_weight
        self.features = create_backbone(
            **{"features_only": True, "feature_cls": "getter", "out_indices": 4, **backbone}
        )
        name = type(self.backbone).__name__
        if not hasattr(self.backbone, "forward_intermediates"):
            raise ValueError(f"{name} cannot be a backbone here: it has no forward_intermediates")
        dims, strides = self.features.feature_info.channels(), self.features.feature_info.reduction()
        self.stride = max(strides)
        # A pyramid is for backbones of one stride, and is built on their last map only.
        width = pyramid_dim if len(set(strides)) == 1 else None
        self.norms = nn.ModuleList(
            LayerNorm2d(dim) if norm_maps and (index == len(dims) - 1 or width is None) else nn.Identity()
            for index, dim in enumerate(dims)
        )
        self.pyramid: nn.Module = nn.Identity()
        if width is not None:
            scales = [strides[-1] / stride for stride in (4, 8, 16, 32)]
            self.pyramid = SimpleFeaturePyramid(dims[-1], width, scales)
            dims = [width] * len(scales)
        self.head = _create_head(head, dims, num_classes)
        self.auxiliary_head = None if auxiliary_head is None else _create_head(auxiliary_head, dims, num_classes)
        self.inference = DenseInference(**(inference or {}))
        config = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD, **(self.features.pretrained_cfg or {})}
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(config[name]).view(-1, 1, 1), persistent=False)
        if grad_checkpointing:
            self.backbone.set_grad_checkpointing(True)

    @property
    def backbone(self) -> Any:
        """The timm model, without its head."""
        return self.features.model

    def init_weights(self) -> None:
        """Do nothing: all parts initialised themselves, or loaded their weights, when they were built.

        mmengine would otherwise call ``init_weights`` of the backbone and overwrite pretrained weights.
        """

    def compile_backbone(self, **options: Any) -> None:
        """Compile the backbone in place, which leaves the names in the state dict alone.

        Args:
            options: keyword arguments of ``torch.compile``.
        """
        self.features.compile(**options)

    def no_weight_decay(self) -> set[str]:
        """Names (or glob patterns) of the parameters that the backbone wants free of weight decay."""
        names = self.backbone.no_weight_decay() if hasattr(self.backbone, "no_weight_decay") else ()
        return {f"features.model.{name}" for name in names}

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  mmengine's base calls labels data_samples
        self,
        inputs: Tensor | Sequence[Tensor],
        labels: Tensor | Sequence[Tensor] | None = None,
        names: Sequence[str] | None = None,
        mode: str = "tensor",
    ) -> Tensor | dict[str, Tensor] | list[dict[str, Any]]:
        """Classify the pixels of images.

        Args:
            inputs: images ``[B, 3, H, W]``, or a list of images ``[3, H_i, W_i]`` for ``mode="predict"``; bytes, 0 to
                255, which are normalised here by the mean and deviation of the backbone's pretrained weights, or
                numbers that are normalised already.
            labels: class indices or ``ignore_index`` ``[B, H, W]``, or a list of ``[H_i, W_i]``; needed by
                ``mode="loss"``.
            names: what the images are called, passed on to the predictions.
            mode: ``"tensor"``, ``"loss"`` or ``"predict"``.

        Returns:
            Logits ``[B, num_classes, H, W]`` of the batch as it is for ``"tensor"``; ``loss_head`` and, with an
            auxiliary head, ``loss_auxiliary``, means over the pixels that are not ignored, for ``"loss"``, in training
            of a backbone with auxiliary losses with ``loss_backbone`` and its parts, ``auxiliary/<name>``; for
            ``"predict"`` a dict for each image: ``label_map`` ``[H_i, W_i]`` (int64), and where given ``labels``, the
            ``ignore_index``, their cross entropy ``loss`` (the sum over all pixels, from a single view only) and
            ``name``; and ``costs``, of a backbone whose work depends on the image.

        Raises:
            ValueError: ``mode`` is none of the three, ``"loss"`` is asked for without labels, or images or labels
                differ in size where they must not.
        """
        if mode == "predict":
            return self._predict(inputs, labels, names)
        if mode not in ("tensor", "loss"):
            raise ValueError(f'mode must be "tensor", "loss" or "predict", got {mode!r}')
        images = self._normalise(stack_tensors(inputs, "images"))
        if mode == "tensor":
            return self._to_pixels(self.head(self._maps(images)), images)
        if labels is None:
            raise ValueError('mode="loss" needs labels')
        labels = stack_tensors(labels, "labels").long()
        if labels.shape != (len(images), *images.shape[2:]):
            raise ValueError(f"labels {tuple(labels.shape)} do not fit images {tuple(images.shape)}")
        maps = self._maps(images)
        losses = {"loss_head": self._mean_loss(self._to_pixels(self.head(maps), images), labels)}
        if self.auxiliary_head is not None:
            logits = self._to_pixels(self.auxiliary_head(maps), images)
            losses["loss_auxiliary"] = self.auxiliary_weight * self._mean_loss(logits, labels)
        auxiliary, parts = backbone_losses(self.backbone)
        if auxiliary is not None:
            losses |= {"loss_backbone": auxiliary, **parts}
        return losses

    def draw(self, image: Tensor, prediction: Mapping[str, Any], classes: Sequence[str] | None = None) -> Image.Image:
        """Draw a prediction: the image, its labels where they are known, what was predicted, and a legend.

        Args:
            image: bytes ``[3, H, W]``, 0 to 255, or normalised numbers.
            prediction: what ``mode="predict"`` gave for it.
            classes: names of the classes; their numbers by default.

        Returns:
            An RGB picture.
        """
        image = to_bytes(image, self.mean, self.std)
        label_maps = [prediction[key] for key in ("labels", "label_map") if key in prediction]
        return draw_labels(image, label_maps, classes or [str(label) for label in range(self.num_classes)])

    def _normalise(self, images: Tensor) -> Tensor:
        return (images / 255 - self.mean) / self.std if images.dtype == torch.uint8 else images

    def _maps(self, images: Tensor) -> list[Tensor]:
        """Feature maps of normalised images, padded below and at the right to whole pixels of the coarsest map."""
        (height, width), (rows, columns) = images.shape[2:], self._padded_size(images)
        maps = self.features(F.pad(images, (0, columns - width, 0, rows - height)))
        return self.pyramid([norm(x) for norm, x in zip(self.norms, maps, strict=True)])

    def _to_pixels(self, logits: Tensor, images: Tensor) -> Tensor:
        """Bring logits of the padded images to the size of the images, in float32."""
        height, width = images.shape[2:]
        return resize(logits.float(), self._padded_size(images))[..., :height, :width]

    def _padded_size(self, images: Tensor) -> list[int]:
        return [-(-side // self.stride) * self.stride for side in images.shape[2:]]

    def _mean_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        # A batch that is ignored altogether has no loss, and no NaN either.
        loss = F.cross_entropy(logits, labels, ignore_index=self.ignore_index, reduction="sum")
        return loss / (labels != self.ignore_index).sum().clamp(min=1)

    def _predict_view(self, images: Tensor, costs: list[dict[str, Tensor]]) -> Tensor:
        """Predict a view or a window, and note what it cost."""
        logits = self._to_pixels(self.head(self._maps(images)), images)
        costs += image_costs(self.backbone).values()
        return logits

    def _predict(
        self,
        inputs: Tensor | Sequence[Tensor],
        labels: Tensor | Sequence[Tensor] | None,
        names: Sequence[str] | None,
    ) -> list[dict[str, Any]]:
        predictions = []
        for index, image in enumerate(inputs):
            target = None if labels is None else labels[index].long()
            size = image.shape[1:] if target is None else target.shape
            costs: list[dict[str, Tensor]] = []
            predict_view = partial(self._predict_view, costs=costs)
            scores, are_logits = self.inference(predict_view, self._normalise(image[None]), size)
            prediction: dict[str, Any] = {"label_map": scores[0].argmax(0)}
            if costs:
                prediction["costs"] = _add_costs(costs)
            if target is not None:
                prediction |= {"labels": target, "ignore_index": self.ignore_index}
                if are_logits:
                    prediction["loss"] = F.cross_entropy(
                        scores, target[None], ignore_index=self.ignore_index, reduction="sum"
                    )
            if names is not None:
                prediction["name"] = names[index]
            predictions.append(prediction)
        return predictions


def _add_costs(costs: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Add up what the views of an image cost; shares are averaged."""
    stacked = {name: torch.stack([view[name] for view in costs]) for name in costs[0]}
    return {name: x.mean(0) if name.endswith("share") else x.sum(0) for name, x in stacked.items()}


def _create_head(head: Mapping[str, Any], dims: Sequence[int], num_classes: int) -> nn.Module:
    """Build a head; in several processes on GPUs, with batch norms that share their statistics.

    Raises:
        TypeError: it has no ``type``.
    """
    if "type" not in head:
        raise TypeError(f"a head needs type=..., one of gatedvision.heads, got {dict(head)}")
    module = MODELS.build({**head, "in_dims": dims, "num_classes": num_classes})
    if dist.is_initialized() and torch.cuda.is_available():
        return convert_sync_batchnorm(module)
    return module
