"""Image classification: a timm backbone, its loss, and mixing of images and labels."""

from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.mixup import Mixup, mixup_target
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from gatedvision.tasks._backbone import create_backbone


class Classification(BaseModel):
    """A backbone with a classifier, trained with (soft) cross entropy.

    Args:
        backbone: ``model_name`` and further keyword arguments of ``timm.create_model``, for example
            ``dict(model_name="vig_t", num_classes=1000, drop_path_rate=0.1)``. Any timm model will do.
        mixup: arguments of ``timm.data.Mixup`` without ``num_classes`` and ``label_smoothing``, for example
            ``dict(mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5)``. ``None`` leaves the images as they are.
        label_smoothing: share of the probability spread evenly over all classes, in [0, 1).
        channels_last: keep images and convolution weights in channels-last memory order, faster on GPUs with
            tensor cores for convolutional backbones.

    Raises:
        ValueError: timm knows no model of that name, the model has no classifier, or ``label_smoothing`` is out of
            range.
        TypeError: ``backbone`` has no ``model_name``, or the model or ``Mixup`` does not take an argument.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: dict[str, Any],
        mixup: dict[str, Any] | None = None,
        label_smoothing: float = 0.0,
        channels_last: bool = False,
    ) -> None:
        # Pinned batches then travel to the GPU while it still computes.
        super().__init__(data_preprocessor=BaseDataPreprocessor(non_blocking=True))
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        self.backbone = create_backbone(**backbone)
        self.num_classes: int = self.backbone.num_classes
        if self.num_classes < 1:
            raise ValueError(f"{backbone['model_name']} has no classifier; give backbone num_classes=...")
        self.label_smoothing = label_smoothing
        self.mixup = (
            Mixup(**mixup, label_smoothing=label_smoothing, num_classes=self.num_classes) if mixup is not None else None
        )
        self.hard_loss = LabelSmoothingCrossEntropy(label_smoothing) if label_smoothing else nn.CrossEntropyLoss()
        self.soft_loss = SoftTargetCrossEntropy()
        config = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD, **(self.backbone.pretrained_cfg or {})}
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(config[name]).view(-1, 1, 1), persistent=False)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.backbone.to(memory_format=self.memory_format)

    def init_weights(self) -> None:
        """Do nothing: the backbone initialised itself, or loaded its weights, when it was built.

        mmengine would otherwise call ``init_weights`` of the backbone and overwrite pretrained weights.
        """

    def compile_backbone(self, **options: Any) -> None:
        """Compile the backbone in place, which leaves the names in the state dict alone.

        Args:
            options: keyword arguments of ``torch.compile``.
        """
        self.backbone.compile(**options)

    def no_weight_decay(self) -> set[str]:
        """Names (or glob patterns) of the parameters that the backbone wants free of weight decay."""
        names = self.backbone.no_weight_decay() if hasattr(self.backbone, "no_weight_decay") else ()
        return {f"backbone.{name}" for name in names}

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  mmengine's base calls labels data_samples
        self, inputs: Tensor, labels: Tensor | None = None, mode: str = "tensor"
    ) -> Tensor | dict[str, Tensor] | list[dict[str, Tensor]]:
        """Classify a batch of images.

        Args:
            inputs: images [B, C, H, W]; bytes, 0 to 255, which load faster and are normalised here by the mean and
                deviation of the backbone's pretrained weights, or numbers that are normalised already.
            labels: class indices [B], needed by ``mode="loss"``.
            mode: ``"tensor"``, ``"loss"`` or ``"predict"``.

        Returns:
            Logits [B, num_classes] for ``"tensor"``; ``dict(loss=...)``, the mean over the batch, for ``"loss"``; for
            ``"predict"`` a list with one dict for the whole batch, ``logits`` [B, num_classes] in float32 and, where
            given, ``labels`` [B].

        Raises:
            ValueError: ``mode`` is none of the three, or ``"loss"`` is asked for without labels.
        """
        if inputs.dtype == torch.uint8:
            inputs = (inputs / 255 - self.mean) / self.std
        inputs = inputs.contiguous(memory_format=self.memory_format)
        if mode == "tensor":
            return self.backbone(inputs)
        if mode == "predict":
            prediction = {"logits": self.backbone(inputs).float()}
            return [prediction if labels is None else {**prediction, "labels": labels}]
        if mode != "loss":
            raise ValueError(f'mode must be "tensor", "loss" or "predict", got {mode!r}')
        if labels is None:
            raise ValueError('mode="loss" needs labels')
        if self.mixup is not None and self.training:
            inputs, soft_labels = _mix(self.mixup, inputs, labels)
            return {"loss": self.soft_loss(self.backbone(inputs).float(), soft_labels)}
        return {"loss": self.hard_loss(self.backbone(inputs).float(), labels)}


def _mix(mixup: Mixup, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mix image i with image B-1-i; the last image of an odd batch, which timm refuses, stays as it is.

    Returns:
        Images [B, C, H, W] and soft labels [B, num_classes].
    """
    even = len(inputs) - len(inputs) % 2
    # Mixup works in place, and these images may belong to the dataset.
    mixed, soft_labels = mixup(inputs[:even].clone(), labels[:even])
    if even == len(inputs):
        return mixed, soft_labels
    last = mixup_target(labels[even:], mixup.num_classes, smoothing=mixup.label_smoothing)
    return torch.cat([mixed, inputs[even:]]), torch.cat([soft_labels, last])
