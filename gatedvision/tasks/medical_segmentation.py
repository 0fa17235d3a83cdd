"""Medical segmentation: one network from image or volume to logits, Dice losses, inference in windows."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.registry import MODELS
from PIL import Image
from torch import Tensor, nn

from gatedvision.tasks._backbone import create_backbone
from gatedvision.tasks._label_picture import draw_labels
from gatedvision.tasks._overlap_losses import LOSSES
from gatedvision.tasks._sliding_window import SlidingWindow
from gatedvision.tasks._stack import stack_tensors


class MedicalSegmentation(BaseModel):
    """A network that maps images or volumes to logits of the same size, trained with Dice and cross entropy.

    For a backbone with a head there is :class:`Segmentation`.

    Args:
        network: ``model_name`` and further keyword arguments of ``timm.create_model``, for example
            ``dict(model_name="attention_unet_3d", in_chans=1)``, which gets ``num_classes`` besides; or ``type``, a
            class or function that makes a module ``[B, C, *sides] -> [B, num_classes, *sides]``, and its arguments.
        num_classes: channels of the logits. With 1, their sigmoid is the probability of the one class beside the
            background; with more, their softmax those of the background and the others.
        losses: the losses and their weights: ``"dice"``, ``"cross_entropy"``, ``"published_dice"``, see
            :mod:`gatedvision.tasks._overlap_losses`.
        ignore_index: label of pixels that count neither in the losses nor in the metrics.
        inference: arguments of :class:`SlidingWindow`: how images are cut into windows.
        grad_checkpointing: recompute activations in the backward pass, of networks that offer it.

    Raises:
        ValueError: timm knows no model of that name, or an option is out of range.
        TypeError: ``network`` has neither ``model_name`` nor ``type``, or it does not take an argument.
    """

    def __init__(
        self,
        network: Mapping[str, Any],
        num_classes: int = 1,
        losses: Mapping[str, float] | None = None,
        ignore_index: int = 255,
        inference: Mapping[str, Any] | None = None,
        grad_checkpointing: bool = False,
    ) -> None:
        # Pinned batches then travel to the GPU while it still computes.
        super().__init__(data_preprocessor=BaseDataPreprocessor(non_blocking=True))
        losses = {"dice": 1.0, "cross_entropy": 1.0} if losses is None else dict(losses)
        unknown = losses.keys() - LOSSES.keys()
        if unknown or not losses:
            raise ValueError(
                f"losses must name some of {', '.join(LOSSES)}, got {', '.join(sorted(unknown)) or 'none'}"
            )
        if min(losses.values()) < 0:
            raise ValueError(f"losses must not have negative weights, got {losses}")
        if not 1 <= num_classes <= 255:
            raise ValueError(
                f"num_classes must be 1 (one class by sigmoid) to 255 (with background), got {num_classes}"
            )
        # Of the labels: a single channel tells two classes apart.
        self.num_classes = max(num_classes, 2)
        self.num_outputs = num_classes
        if 0 <= ignore_index < self.num_classes:
            raise ValueError(
                f"ignore_index must not be one of the classes 0..{self.num_classes - 1}, got {ignore_index}"
            )
        self.ignore_index = ignore_index
        self.losses = losses
        self.network = _create_network(network, num_classes)
        self.in_chans = network.get("in_chans", network.get("in_channels"))
        self.inference = SlidingWindow(**(inference or {}))
        if grad_checkpointing:
            if not hasattr(self.network, "set_grad_checkpointing"):
                raise ValueError(f"{type(self.network).__name__} does not offer gradient checkpointing")
            self.network.set_grad_checkpointing(True)

    @property
    def has_gates(self) -> bool:
        """Whether the network gives the coefficients of its attention gates."""
        return "return_attention" in inspect.signature(self.network.forward).parameters

    def init_weights(self) -> None:
        """Do nothing: the network initialised itself, or loaded its weights, when it was built."""

    def compile_backbone(self, **options: Any) -> None:
        """Compile the network in place, which leaves the names in the state dict alone.

        Args:
            options: keyword arguments of ``torch.compile``.
        """
        self.network.compile(**options)

    def no_weight_decay(self) -> set[str]:
        """Names (or glob patterns) of the parameters that the network wants free of weight decay."""
        names = self.network.no_weight_decay() if hasattr(self.network, "no_weight_decay") else ()
        return {f"network.{name}" for name in names}

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  mmengine's base calls labels data_samples
        self,
        inputs: Tensor | Sequence[Tensor],
        labels: Tensor | Sequence[Tensor] | None = None,
        names: Sequence[str] | None = None,
        spacings: Sequence[Sequence[float]] | None = None,
        mode: str = "tensor",
    ) -> Tensor | dict[str, Tensor] | list[dict[str, Any]]:
        """Segment images or volumes.

        Args:
            inputs: ``[B, C, *sides]``, or a list of ``[C, *sides_i]`` for ``mode="predict"``; bytes, 0 to 255, which
                become numbers in [-1, 1], or numbers, which are taken as they are.
            labels: classes or ``ignore_index`` ``[B, *sides]``, or a list of ``[*sides_i]``; needed by
                ``mode="loss"``.
            names: what the images are called, passed on to the predictions.
            spacings: sides of the pixels of each, mm, passed on likewise.
            mode: ``"tensor"``, ``"loss"`` or ``"predict"``.

        Returns:
            Logits ``[B, num_classes, *sides]`` of the batch as it is for ``"tensor"``; ``loss_dice`` and so on,
            weighted, for ``"loss"``; for ``"predict"`` a dict for each image: ``label_map`` ``[*sides_i]``, bytes,
            and, where given, ``labels`` with the ``ignore_index``, ``name`` and ``spacing``.

        Raises:
            ValueError: ``mode`` is none of the three, ``"loss"`` is asked for without labels, or something does not
                fit in size, number of axes or of channels.
        """
        if mode == "predict":
            return self._predict(inputs, labels, names, spacings)
        if mode not in ("tensor", "loss"):
            raise ValueError(f'mode must be "tensor", "loss" or "predict", got {mode!r}')
        images = _to_numbers(stack_tensors(inputs, "images"))
        logits = self._logits(images)
        if mode == "tensor":
            return logits
        if labels is None:
            raise ValueError('mode="loss" needs labels')
        target = stack_tensors(labels, "labels")
        if target.shape != (len(images), *images.shape[2:]):
            raise ValueError(f"labels {tuple(target.shape)} do not fit images {tuple(images.shape)}")
        return {
            f"loss_{name}": weight * LOSSES[name](logits, target, self.ignore_index)
            for name, weight in self.losses.items()
        }

    def to_label_map(self, logits: Tensor) -> Tensor:
        """Decide on the class of each pixel.

        Args:
            logits: ``[num_classes, *sides]``.

        Returns:
            Classes ``[*sides]``, bytes.
        """
        return (logits[0] > 0).byte() if self.num_outputs == 1 else logits.argmax(0).byte()

    @torch.no_grad()
    def attend(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Segment an image, and see what the attention gates let through.

        Args:
            image: ``[C, *sides]``, as in ``inputs``.

        Returns:
            Classes ``[*sides]``, bytes, and the coefficients of each gate ``[gates, *sides]``, 0 to 1, resized to the
            image, in the network's order.

        Raises:
            ValueError: the network has no gates.
        """
        if not self.has_gates:
            raise ValueError(
                f"{type(self.network).__name__} gives no attention maps: its forward has no return_attention"
            )

        def predict(windows: Tensor) -> Tensor:
            logits, maps = self.network(windows, return_attention=True)
            mode = "bilinear" if windows.ndim == 4 else "trilinear"
            resized = [
                nn.functional.interpolate(gate.float(), size=windows.shape[2:], mode=mode, align_corners=False)
                for gate in maps
            ]
            return torch.cat([logits.float(), *resized], 1)

        scores = self.inference(predict, _to_numbers(image))
        gates = scores[self.num_outputs :]
        if not len(gates):
            raise ValueError(f"this {type(self.network).__name__} was built without attention gates")
        return self.to_label_map(scores[: self.num_outputs]), gates

    def draw(self, image: Tensor, prediction: Mapping[str, Any], classes: Sequence[str] | None = None) -> Image.Image:
        """Draw a prediction: the image, its labels where they are known, what was predicted, and a legend.

        Of a volume it is the middle slice along the last axis.

        Args:
            image: ``[C, *sides]``, as in ``inputs``.
            prediction: what ``mode="predict"`` gave for it.
            classes: names of the classes; their numbers by default.

        Returns:
            An RGB picture.
        """
        axes = prediction["label_map"].ndim
        label_maps = [middle_slice(prediction[key], axes) for key in ("labels", "label_map") if key in prediction]
        # Nothing is drawn over the background, which would hide the image.
        label_maps = [torch.where(each == 0, self.ignore_index, each.long()) for each in label_maps]
        names = classes or [str(label) for label in range(self.num_classes)]
        return draw_labels(to_picture(middle_slice(image, axes)), label_maps, names)

    def _logits(self, images: Tensor) -> Tensor:
        """Logits of a batch.

        Raises:
            ValueError: the network does not take such images, or gives other channels.
        """
        weights = next((p for p in self.network.parameters() if p.ndim >= 4), None)
        if weights is not None and images.ndim != weights.ndim:
            wanted = "images [B, C, H, W]" if weights.ndim == 4 else "volumes [B, C, X, Y, Z]"
            raise ValueError(f"the network is for {wanted}, got {tuple(images.shape)}")
        if self.in_chans is not None and images.shape[1] != self.in_chans:
            raise ValueError(f"the network is for {self.in_chans} channels, got images {tuple(images.shape)}")
        logits = self.network(images)
        if logits.shape != (len(images), self.num_outputs, *images.shape[2:]):
            raise ValueError(
                f"{type(self.network).__name__} made {tuple(logits.shape)} of {tuple(images.shape)}; with num_classes="
                f"{self.num_outputs} it has to be {(len(images), self.num_outputs, *images.shape[2:])}"
            )
        return logits

    def _predict(
        self,
        inputs: Tensor | Sequence[Tensor],
        labels: Tensor | Sequence[Tensor] | None,
        names: Sequence[str] | None,
        spacings: Sequence[Sequence[float]] | None,
    ) -> list[dict[str, Any]]:
        predictions = []
        for index, image in enumerate(inputs):
            prediction: dict[str, Any] = {
                "label_map": self.to_label_map(self.inference(self._logits, _to_numbers(image)))
            }
            if labels is not None:
                prediction |= {"labels": labels[index], "ignore_index": self.ignore_index}
            if names is not None:
                prediction["name"] = names[index]
            if spacings is not None:
                prediction["spacing"] = tuple(spacings[index])
            predictions.append(prediction)
        return predictions


def middle_slice(x: Tensor, axes: int) -> Tensor:
    """The middle of a volume along its last axis; an image stays as it is.

    Args:
        x: ``[..., *sides]``.
        axes: number of the sides, 2 of an image and 3 of a volume.

    Returns:
        ``[..., H, W]``.
    """
    return x[..., x.shape[-1] // 2] if axes == 3 else x


def to_picture(image: Tensor) -> Tensor:
    """Make an image visible: bytes as they are, numbers from their least to their greatest.

    Args:
        image: ``[C, H, W]``; of other than three channels the first is shown in grey.

    Returns:
        Bytes ``[3, H, W]``.
    """
    if image.dtype != torch.uint8:
        low, high = image.amin(), image.amax()
        image = ((image - low) / (high - low).clamp(min=1e-6)).mul(255).round().byte()
    return image if len(image) == 3 else image[:1].repeat(3, 1, 1)


def _to_numbers(images: Tensor) -> Tensor:
    return images / 127.5 - 1 if images.dtype == torch.uint8 else images


def _create_network(network: Mapping[str, Any], num_classes: int) -> Any:
    """Build the network.

    Raises:
        TypeError: it is not said which one.
    """
    if ("model_name" in network) == ("type" in network):
        raise TypeError(f"a network needs model_name=... of timm or type=..., a class, got {dict(network)}")
    if "model_name" in network:
        return create_backbone(**{"num_classes": num_classes, **network})
    return MODELS.build(dict(network))
