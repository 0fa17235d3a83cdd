"""Image classification: a timm backbone, its loss, and mixing of images and labels."""

from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.mixup import Mixup, mixup_target
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from gatedvision.tasks._backbone import backbone_losses, create_backbone, image_costs


class Classification(BaseModel):
    """A backbone with a classifier, trained with (soft) cross entropy.

    A backbone may have a method ``auxiliary_losses()``, which returns scalars of its last forward pass by name:
    ``"auxiliary"``, the weighted sum of the others, is added to the loss in training, and all are logged; see
    :class:`~gatedvision.models.vmoe.VMoE`. One with ``num_members`` above 1 is an ensemble and returns row
    b * num_members + m for member m and image b. Every member is trained on the image's label, and the prediction is
    what ``average_members`` of the backbone makes of the rows.

    Args:
        backbone: ``model_name`` and further keyword arguments of ``timm.create_model``, for example
            ``dict(model_name="vig_t", num_classes=1000, drop_path_rate=0.1)``. Any timm model will do.
        mixup: arguments of ``timm.data.Mixup`` without ``num_classes`` and ``label_smoothing``, for example
            ``dict(mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5)``. ``None`` leaves the images as they are.
        label_smoothing: share of the probability spread evenly over all classes, in [0, 1).
        channels_last: keep images and convolution weights in channels-last memory order, faster on GPUs with
            tensor cores for convolutional backbones.
        sigmoid: train with the binary cross entropies of all classes, summed, in place of that of a softmax.

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
        sigmoid: bool = False,
    ) -> None:
        # Pinned batches then travel to the GPU while it still computes.
        super().__init__(data_preprocessor=BaseDataPreprocessor(non_blocking=True))
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        self.backbone = create_backbone(**backbone)
        self.num_classes: int = self.backbone.num_classes
        self.num_members: int = getattr(self.backbone, "num_members", 1)
        if self.num_classes < 1:
            raise ValueError(f"{backbone['model_name']} has no classifier; give backbone num_classes=...")
        self.label_smoothing = label_smoothing
        self.mixup = (
            Mixup(**mixup, label_smoothing=label_smoothing, num_classes=self.num_classes) if mixup is not None else None
        )
        self.hard_loss = LabelSmoothingCrossEntropy(label_smoothing) if label_smoothing else nn.CrossEntropyLoss()
        self.soft_loss = SoftTargetCrossEntropy()
        if sigmoid:
            self.hard_loss = self.soft_loss = BinaryCrossEntropy(label_smoothing, sum_classes=True)
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
            Logits [B, num_classes] for ``"tensor"``; ``dict(loss=...)``, the mean over the batch, for ``"loss"``, in
            training of a backbone with auxiliary losses with ``cross_entropy`` and ``auxiliary``, which add up to it,
            and the parts of the latter, ``auxiliary/<name>``; for ``"predict"`` a list with one dict for the whole
            batch, ``logits`` [B, num_classes] in float32 (float64 of a backbone in float64) and, where given,
            ``labels`` [B]; and ``costs``, of a backbone whose work depends on the image.

        Raises:
            ValueError: ``mode`` is none of the three, or ``"loss"`` is asked for without labels.
        """
        if inputs.dtype == torch.uint8:
            inputs = (inputs / 255 - self.mean) / self.std
        inputs = inputs.contiguous(memory_format=self.memory_format)
        if mode == "tensor":
            return self._average_members(self.backbone(inputs))
        if mode == "predict":
            prediction = {"logits": self._average_members(_widen(self.backbone(inputs))), **image_costs(self.backbone)}
            return [prediction if labels is None else {**prediction, "labels": labels}]
        if mode != "loss":
            raise ValueError(f'mode must be "tensor", "loss" or "predict", got {mode!r}')
        if labels is None:
            raise ValueError('mode="loss" needs labels')
        compare: nn.Module = self.hard_loss
        if self.mixup is not None and self.training:
            compare = self.soft_loss
            inputs, labels = _mix(self.mixup, inputs, labels)
        logits = _widen(self.backbone(inputs))
        if self.num_members > 1:
            labels = labels.repeat_interleave(self.num_members, dim=0)
        return self._add_auxiliary(compare(logits, labels))

    def _average_members(self, logits: Tensor) -> Tensor:
        return logits if self.num_members == 1 else self.backbone.average_members(logits)

    def _add_auxiliary(self, cross_entropy: Tensor) -> dict[str, Tensor]:
        """Add what the backbone wants to be added in training.

        Returns:
            ``loss``, and its parts if there are several.
        """
        auxiliary, parts = backbone_losses(self.backbone)
        if auxiliary is None:
            return {"loss": cross_entropy}
        return {"loss": cross_entropy + auxiliary, "cross_entropy": cross_entropy, "auxiliary": auxiliary, **parts}


def _widen(logits: Tensor) -> Tensor:
    """Return logits in float32, or float64 if that is what they are in."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


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
