"""Free-form inpainting: a generator of two stages against a discriminator of patches, trained in turns."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.optim import OptimWrapperDict
from PIL import Image
from torch import Tensor, nn

from gatedvision.models import PatchDiscriminator, composite
from gatedvision.tasks._backbone import create_backbone
from gatedvision.tasks._inpainting_losses import adversarial_loss, discriminator_hinge_loss, l1_loss
from gatedvision.tasks._stack import stack_tensors

_PARTS = ("generator", "discriminator")


class Inpainting(BaseModel):
    """DeepFill v2's training (arXiv:1806.03589): L1 on both stages, and the hinge losses of SN-PatchGAN.

    Each iteration takes a step with the discriminator, and then one with the generator against it. A completed image,
    which the discriminator sees beside the whole one, is the second stage's in the hole and the input elsewhere. The
    config's ``optim_wrapper`` has a part for each of them, ``dict(generator=dict(optimizer=...),
    discriminator=dict(optimizer=...))``.

    Args:
        generator: ``model_name`` and further keyword arguments of ``timm.create_model``, for example
            ``dict(model_name="deepfillv2")``. A generator maps images ``[B, 3, H, W]`` in [-1, 1] and masks
            ``[B, 1, H, W]`` to what both stages make of them. With ``sketch=True`` it also takes lines
            ``[B, 1, H, W]``, and the discriminator gets them too.
        discriminator: keyword arguments of :class:`gatedvision.models.PatchDiscriminator`.
        gan_weight: weight of the adversarial loss; 1 as published, 0.1 where it makes blobs of colour (small batches,
            few images).
        l1_weight: weight of the L1 losses.
        separate_batches: train the discriminator on the first half of each batch and the generator on the second, as
            published; by default both see the whole batch, which costs one pass of the generator less.

    Raises:
        ValueError: timm knows no model of that name, or a weight is negative.
        TypeError: ``generator`` has no ``model_name``, or they do not take an argument.
    """

    def __init__(
        self,
        generator: Mapping[str, Any],
        discriminator: Mapping[str, Any] | None = None,
        gan_weight: float = 1.0,
        l1_weight: float = 1.0,
        separate_batches: bool = False,
    ) -> None:
        # Pinned batches then travel to the GPU while it still computes.
        super().__init__(data_preprocessor=BaseDataPreprocessor(non_blocking=True))
        for name, weight in {"gan_weight": gan_weight, "l1_weight": l1_weight}.items():
            if weight < 0:
                raise ValueError(f"{name} must not be negative, got {weight}")
        self.gan_weight = gan_weight
        self.l1_weight = l1_weight
        self.separate_batches = separate_batches
        self.with_sketch = bool(generator.get("sketch", False))
        self.generator = create_backbone(**generator)
        self.discriminator = PatchDiscriminator(**{"in_chans": 5 if self.with_sketch else 4, **(discriminator or {})})

    def init_weights(self) -> None:
        """Do nothing: both parts initialised themselves, or loaded their weights, when they were built."""

    def compile_backbone(self, **options: Any) -> None:
        """Compile the generator in place, which leaves the names in the state dict alone.

        Args:
            options: keyword arguments of ``torch.compile``.
        """
        self.generator.compile(**options)

    def train_step(self, data: Any, optim_wrapper: Any, forward: Callable[..., Any] | None = None) -> dict[str, Tensor]:
        """Take a step with the discriminator and one with the generator.

        Args:
            data: the batch, arguments of :meth:`forward`.
            optim_wrapper: the two optimizers.
            forward: the model's data-parallel wrapper, which averages gradients over processes; the model itself by
                default.

        Returns:
            ``loss_discriminator``; ``loss`` of the generator, and its parts ``loss_l1_coarse``, ``loss_l1_refined`` and
            ``loss_adversarial``.

        Raises:
            ValueError: there is one optimizer for everything, or half of the batch is nothing.
        """
        if not isinstance(optim_wrapper, OptimWrapperDict) or set(optim_wrapper.keys()) != set(_PARTS):
            raise ValueError(
                "inpainting has two optimizers: optim_wrapper=dict("
                "generator=dict(optimizer=...), discriminator=dict(optimizer=...))"
            )
        run: Any = forward or self
        ours, theirs = optim_wrapper["generator"], optim_wrapper["discriminator"]
        batch = {key: value for key, value in self.data_preprocessor(data, True).items() if key != "names"}
        first, second = self._halves(batch) if self.separate_batches else (batch, batch)
        # One pass of the generator serves both of them if they see the same images.
        with ours.optim_context(run), torch.set_grad_enabled(not self.separate_batches):
            stages = self(**first)
        with theirs.optim_context(run):
            losses = run(**first, stages=[stage.detach() for stage in stages], mode="discriminator_loss")
        loss, log = self.parse_losses(losses)
        theirs.update_params(loss)
        report = {"loss_discriminator": log["loss_discriminator"]}
        with ours.optim_context(run), _frozen(self.discriminator):
            stages = None if self.separate_batches else stages
            losses = run(**second, stages=stages, mode="generator_loss")
        loss, log = self.parse_losses(losses)
        ours.update_params(loss)
        return {**report, **log}

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  mmengine's base calls labels data_samples
        self,
        inputs: Tensor | Sequence[Tensor],
        masks: Tensor | Sequence[Tensor],
        sketches: Tensor | Sequence[Tensor] | None = None,
        names: Sequence[str] | None = None,
        stages: Sequence[Tensor] | None = None,
        mode: str = "tensor",
    ) -> Any:
        """Fill holes in images.

        Args:
            inputs: whole images ``[B, 3, H, W]``, or a list of images ``[3, H_i, W_i]`` for ``mode="predict"``; bytes,
                0 to 255, or numbers in [-1, 1]. What lies in the hole is only compared with.
            masks: ``[B, 1, H, W]``, or a list of ``[1, H_i, W_i]``: 1 in the hole and 0 elsewhere.
            sketches: likewise, 1 on the lines that guide what is filled in; those outside of the hole do not count.
            names: what the images are called, passed on to the predictions.
            stages: what a call with ``mode="tensor"`` gave for them, for the losses; computed if it is missing.
            mode: ``"tensor"``, ``"predict"``, ``"loss"``, or ``"discriminator_loss"`` or ``"generator_loss"`` alone.

        Returns:
            For ``"tensor"``, what both stages painted ``[B, 3, H, W]``, in [-1, 1] and hole or not. For ``"loss"``,
            ``loss_discriminator`` and, weighted, ``loss_l1_coarse``, ``loss_l1_refined`` and ``loss_adversarial``. For
            ``"predict"``, a dict for each image: ``completed`` and ``coarse``, the image with its hole filled by the
            second and the first stage, ``image`` (all of them bytes ``[3, H_i, W_i]``, known pixels as they were),
            ``mask`` ``[1, H_i, W_i]`` (bool) and, where given, ``name``.

        Raises:
            ValueError: ``mode`` is none of those, sketches are missing or not asked for, or sizes differ where they
                must not.
        """
        if (sketches is not None) != self.with_sketch:
            needed = "needs sketches (data with_sketch=True)" if self.with_sketch else "takes no sketches (sketch=True)"
            raise ValueError(f"this generator {needed}")
        if mode == "predict":
            return self._predict(inputs, masks, sketches, names)
        if mode not in ("tensor", "loss", "discriminator_loss", "generator_loss"):
            raise ValueError(
                f'mode must be "tensor", "predict", "loss", "discriminator_loss" or "generator_loss", got {mode!r}'
            )
        images, holes, lines = self._prepare(inputs, masks, sketches)
        coarse, refined = self.generator(images, holes, lines) if stages is None else stages
        if mode == "tensor":
            return coarse, refined
        completed = composite(images, holes, refined)
        losses: dict[str, Tensor] = {}
        if mode != "generator_loss":
            # In one call, so that the power iterations of both kinds of images are the same one.
            both = (torch.cat([images, completed.detach()]), holes.repeat(2, 1, 1, 1))
            scores = self.discriminator(*both, None if lines is None else lines.repeat(2, 1, 1, 1))
            losses["loss_discriminator"] = discriminator_hinge_loss(*scores.chunk(2))
        if mode != "discriminator_loss":
            losses["loss_l1_coarse"] = self.l1_weight * l1_loss(coarse, images)
            losses["loss_l1_refined"] = self.l1_weight * l1_loss(refined, images)
            losses["loss_adversarial"] = self.gan_weight * adversarial_loss(self.discriminator(completed, holes, lines))
        return losses

    def draw(self, image: Tensor, prediction: Mapping[str, Any], classes: Sequence[str] | None = None) -> Image.Image:
        """Draw a prediction: the image, the input with its hole in grey, and the hole filled by each stage.

        Args:
            image: the image, which the prediction holds, too.
            prediction: what ``mode="predict"`` gave for it.
            classes: unused; there are none.

        Returns:
            An RGB picture of the image's height and four times its width.
        """
        whole, hole = prediction["image"], prediction["mask"]
        masked = torch.where(hole, 127, whole)
        panels = [whole, masked, prediction["coarse"], prediction["completed"]]
        pixels = [panel.byte().permute(1, 2, 0).cpu().numpy() for panel in panels]
        return Image.fromarray(np.concatenate(pixels, axis=1))

    def _prepare(
        self,
        inputs: Tensor | Sequence[Tensor],
        masks: Tensor | Sequence[Tensor],
        sketches: Tensor | Sequence[Tensor] | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Images in [-1, 1], holes as 0 and 1, and the lines in them.

        Raises:
            ValueError: they differ in size.
        """
        images, holes = stack_tensors(inputs, "images"), stack_tensors(masks, "masks")
        if holes.shape != (len(images), 1, *images.shape[2:]):
            raise ValueError(f"masks {tuple(holes.shape)} do not fit images {tuple(images.shape)}")
        images = images / 127.5 - 1 if images.dtype == torch.uint8 else images
        holes = holes.to(images)
        if sketches is None:
            return images, holes, None
        lines = stack_tensors(sketches, "sketches")
        if lines.shape != holes.shape:
            raise ValueError(f"sketches {tuple(lines.shape)} do not fit masks {tuple(holes.shape)}")
        return images, holes, lines.to(images) * holes

    def _predict(
        self,
        inputs: Tensor | Sequence[Tensor],
        masks: Tensor | Sequence[Tensor],
        sketches: Tensor | Sequence[Tensor] | None,
        names: Sequence[str] | None,
    ) -> list[dict[str, Any]]:
        predictions: list[dict[str, Any]] = []
        if isinstance(inputs, Tensor):
            batches = [(inputs, masks, sketches)]
        else:
            lines = [None] * len(inputs) if sketches is None else [sketch[None] for sketch in sketches]
            batches = [(image[None], mask[None], line) for image, mask, line in zip(inputs, masks, lines, strict=True)]
        for batch in batches:
            images, holes, lines = self._prepare(*batch)
            stages, is_hole = self.generator(images, holes, lines), holes > 0.5
            originals = _to_bytes(images)
            coarse, completed = (composite(originals, is_hole, _to_bytes(stage)) for stage in stages)
            results = {"completed": completed, "coarse": coarse, "image": originals, "mask": is_hole}
            predictions += [{key: value[index] for key, value in results.items()} for index in range(len(images))]
        for prediction, name in zip(predictions, names or (), strict=names is not None):
            prediction["name"] = name
        return predictions

    def _halves(self, batch: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Divide a batch between discriminator and generator; one of an odd number of images goes to neither.

        Raises:
            ValueError: it holds one image.
        """
        half = len(batch["inputs"]) // 2
        if half == 0:
            raise ValueError("separate_batches needs at least two images a batch, got 1")
        first = {key: value[:half] for key, value in batch.items()}
        return first, {key: value[half : 2 * half] for key, value in batch.items()}


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Let gradients pass through a module, and compute none for its own parameters."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _to_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1] as bytes; those that come from bytes are what they were."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).byte()
