"""DeepFill v2: free-form image inpainting with gated convolution.

Paper: J. Yu, Z. Lin, J. Yang, X. Shen, X. Lu and T. Huang, "Free-Form Image Inpainting with Gated Convolution",
https://arxiv.org/abs/1806.03589 (ICCV 2019).
Published code and weights (TensorFlow 1) https://github.com/JiahuiYu/generative_inpainting, CC BY-NC 4.0: not for
commercial use, and not shipped here. ``tools/convert_checkpoint.py`` converts them on the user's machine.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Optional

import torch
import torch.nn.functional as F
from timm.models import checkpoint_seq, generate_default_cfgs, register_model
from torch import Tensor, nn

from gatedvision.layers.contextual_attention import ContextualAttention
from gatedvision.layers.gated_conv import GatedConv2d, GatedUpsample2d, PaddedConv2d
from gatedvision.layers.resize_nearest import resize_nearest_aligned
from gatedvision.layers.seamless import clone_seamlessly
from gatedvision.models._deepfill_names import convert_generator
from gatedvision.models._pretrained import StateDict, build_backbone, match_model

__all__ = ["DeepFillV2", "composite"]

# Two steps down, and one more within the attention.
MULTIPLE = 8
# A mirrored border of 16 pixels, the largest dilation, needs a map of 17 at a quarter of the resolution.
MIN_SIZE_REFLECT = 72
MODEL_OF_PADDING = {"same": "deepfillv2", "symmetric": "deepfillv2_port", "reflect": "deepfillv2_mmagic"}


def composite(image: Tensor, mask: Tensor, refined: Tensor) -> Tensor:
    """Put a result into the hole; known pixels are those of the image, bit by bit.

    Args:
        image: ``[B, C, H, W]``.
        mask: ``[B, 1, H, W]``, hole where true or above 0.5.
        refined: ``[B, C, H, W]``, cast to the dtype of ``image``.

    Returns:
        ``[B, C, H, W]``.
    """
    return torch.where(_hole(mask), refined.to(image.dtype), image)


def _hole(mask: Tensor) -> Tensor:
    return mask if mask.dtype == torch.bool else mask > 0.5


class GatedEncoder(nn.Sequential):
    """Six gated convolutions, the first of 5x5 pixels, the second and fourth halving the map.

    Args:
        in_chans: channels of the input.
        dims: channels of each layer's output.
        last_activation: of the last layer; the others have ELU.
        padding: as in :class:`PaddedConv2d`.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        in_chans: int,
        dims: Sequence[int],
        last_activation: str = "elu",
        padding: str = "same",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        dd = {"padding": padding, "device": device, "dtype": dtype}
        d1, d2, d3, d4, d5, d6 = dims
        super().__init__(
            GatedConv2d(in_chans, d1, 5, **dd),
            GatedConv2d(d1, d2, stride=2, **dd),
            GatedConv2d(d2, d3, **dd),
            GatedConv2d(d3, d4, stride=2, **dd),
            GatedConv2d(d4, d5, **dd),
            GatedConv2d(d5, d6, activation=last_activation, **dd),
        )


class GatedDecoder(nn.Sequential):
    """Six gated convolutions, the third and fifth behind upsampling, and a last one to the image.

    Args:
        in_chans: channels of the input.
        dims: channels of each gated layer's output.
        out_chans: channels of the image.
        gated_output: gate the last layer, too, without activation; else it is a plain convolution.
        padding: as in :class:`PaddedConv2d`.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        in_chans: int,
        dims: Sequence[int],
        out_chans: int,
        gated_output: bool = False,
        padding: str = "same",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        dd = {"padding": padding, "device": device, "dtype": dtype}
        layers = [
            (GatedUpsample2d if index in (2, 4) else GatedConv2d)(before, dim, **dd)
            for index, (before, dim) in enumerate(pairwise((in_chans, *dims)))
        ]
        if gated_output:
            output = GatedConv2d(dims[-1], out_chans, activation="identity", **dd)
        else:
            output = PaddedConv2d(dims[-1], out_chans, **dd)
        super().__init__(*layers, output)


def _dilated(dim: int, **kwargs: Any) -> nn.Sequential:
    return nn.Sequential(*(GatedConv2d(dim, dim, dilation=dilation, **kwargs) for dilation in (2, 4, 8, 16)))


class CoarseStage(nn.Module):
    """First stage: a rough filling from image and mask.

    Args:
        in_chans: channels of the input.
        out_chans: channels of the image.
        dim: channels of the first layer's output, d; they grow to 4 d at a quarter of the resolution.
        gated_output: as in :class:`GatedDecoder`.
        padding: as in :class:`PaddedConv2d`.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        dim: int,
        gated_output: bool = False,
        padding: str = "same",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"padding": padding, "device": device, "dtype": dtype}
        self.grad_checkpointing = False
        self.encoder = GatedEncoder(in_chans, [dim * n for n in (1, 2, 2, 4, 4, 4)], **dd)
        self.dilated = _dilated(4 * dim, **dd)
        dims = [4 * dim, 4 * dim, 2 * dim, 2 * dim, dim, dim // 2]
        self.decoder = GatedDecoder(4 * dim, dims, out_chans, gated_output, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to ``[B, C, H, W]``, before the tanh."""
        for part in (self.encoder, self.dilated, self.decoder):
            x = _run(part, x, self.grad_checkpointing)
        return x


class RefineStage(nn.Module):
    """Second stage: dilated convolutions beside contextual attention, joined.

    Args:
        in_chans: channels of the input.
        out_chans: channels of the image.
        dim: channels of the first layers' outputs, d.
        attention: the attention layer.
        attention_activation: of the layer before the attention.
        decoder_dims: channels of the decoder's gated layers.
        gated_output: as in :class:`GatedDecoder`.
        padding: as in :class:`PaddedConv2d`.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        dim: int,
        attention: ContextualAttention,
        attention_activation: str,
        decoder_dims: Sequence[int],
        gated_output: bool = False,
        padding: str = "same",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"padding": padding, "device": device, "dtype": dtype}
        self.grad_checkpointing = False
        self.encoder = GatedEncoder(in_chans, [dim * n for n in (1, 1, 2, 2, 4, 4)], **dd)
        self.dilated = _dilated(4 * dim, **dd)
        dims = [dim * n for n in (1, 1, 2, 4, 4, 4)]
        self.attention_encoder = GatedEncoder(in_chans, dims, attention_activation, **dd)
        self.attention = attention
        self.attention_decoder = nn.Sequential(*(GatedConv2d(4 * dim, 4 * dim, **dd) for _ in range(2)))
        self.decoder = GatedDecoder(8 * dim, decoder_dims, out_chans, gated_output, **dd)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Refine a filling.

        Args:
            x: ``[B, C, H, W]``.
            mask: ``[B, 1, H/4, W/4]``, 1 for holes.

        Returns:
            ``[B, C, H, W]``, before the tanh.
        """
        recompute = self.grad_checkpointing
        context = _run(self.dilated, _run(self.encoder, x, recompute), recompute)
        borrowed = self.attention(_run(self.attention_encoder, x, recompute), mask)
        borrowed = _run(self.attention_decoder, borrowed, recompute)
        return _run(self.decoder, torch.cat([context, borrowed], 1), recompute)


def _run(layers: nn.Sequential, x: Tensor, recompute: bool) -> Tensor:
    return checkpoint_seq(layers, x) if recompute and torch.is_grad_enabled() else layers(x)


class DeepFillV2(nn.Module):
    """DeepFill v2's generator: a coarse stage and a refining one with contextual attention (arXiv:1806.03589).

    By default it computes what the published TensorFlow graph does, whose weights need this, for any mask of each
    sample; a published batch is run as if it had one mask (``first_mask_only``). Published weights expect BGR, the
    network RGB, and conversion swaps them.

    Args:
        in_chans: channels of the image and of the results.
        dim: channels of the first convolutions, half of which remain behind the gate ("cnum"); a multiple of 4.
        sketch: take a sketch of edges as a further channel, to guide what is drawn in the hole.
        padding: as in :class:`PaddedConv2d`. ``"same"`` also means resizing with coinciding corners, and the others
            every second or fourth pixel.
        fuse: as in :class:`ContextualAttention`.
        masked_scores: as in :class:`ContextualAttention`.
        overlap: as in :class:`ContextualAttention`.
        first_mask_only: as in :class:`ContextualAttention`; the first stage has the mask of each sample anyway.
        attention_block: as ``block`` in :class:`ContextualAttention`.
        attention_activation: of the layer before the attention.
        gated_output: gate the layers that return images, too.
        guided_refinement: let the second stage see all channels that the first does, not only the image.
        wide_decoder: give the second stage's decoder a third more channels.
        seamless: clone what both stages paint into the image without a step at the hole's border
            (:func:`~gatedvision.layers.seamless.clone_seamlessly`), so that they learn what is beyond a smooth
            continuation; not published, and not for published weights, which did not learn with it.
        init_gain: factor of the kernels' initial size. Each gate halves what passes it, and with the published 1 little
            of the image is left after a stage; 2.3 keeps the variance, which short trainings need.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if ``dim`` is no multiple of 4, an option is unknown or ``init_gain`` is not positive.
    """

    def __init__(
        self,
        in_chans: int = 3,
        dim: int = 48,
        sketch: bool = False,
        padding: str = "same",
        fuse: bool = True,
        masked_scores: str = "zero",
        overlap: str = "constant",
        first_mask_only: bool = False,
        attention_block: Optional[int] = None,
        attention_activation: str = "relu",
        gated_output: bool = False,
        guided_refinement: bool = False,
        wide_decoder: bool = False,
        seamless: bool = False,
        init_gain: float = 1.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if dim < 4 or dim % 4 != 0:
            raise ValueError(f"dim must be a positive multiple of 4, got {dim}")
        if not 0 < init_gain < float("inf"):
            raise ValueError(f"init_gain must be positive and finite, got {init_gain}")
        dd = {"gated_output": gated_output, "padding": padding, "device": device, "dtype": dtype}
        # What timm asks of every model that it saves for a hub: no classes, no features.
        self.num_classes = self.num_features = 0
        self.in_chans = in_chans
        self.dim = dim
        self.sketch = sketch
        self.padding = padding
        self.guided_refinement = guided_refinement
        self.seamless = seamless
        self.init_gain = init_gain
        width, all_chans = dim // 2, in_chans + (3 if sketch else 2)
        self.coarse = CoarseStage(all_chans, in_chans, width, **dd)
        resize = "aligned" if padding == "same" else "floor"
        attention = ContextualAttention(
            fuse=fuse,
            masked_scores=masked_scores,
            overlap=overlap,
            resize=resize,
            first_mask_only=first_mask_only,
            block=attention_block,
        )
        dims = [width * n for n in (4, 4, 2, 2, 1)] + [width // 2]
        if wide_decoder:
            dims = [n * 4 // 3 for n in dims]
        refine_chans = all_chans if guided_refinement else in_chans
        self.refine = RefineStage(refine_chans, in_chans, width, attention, attention_activation, dims, **dd)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw every parameter anew, also after ``to_empty``: kernels Glorot-uniform times the gain, biases 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight, self.init_gain)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @torch.jit.ignore()
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the layers' inputs for the backward pass and recompute the rest."""
        for stage in (self.coarse, self.refine):
            stage.grad_checkpointing = enable

    def forward(self, image: Tensor, mask: Tensor, sketch: Optional[Tensor] = None) -> tuple[Tensor, Tensor]:
        """Fill the holes of images; :func:`composite` puts the result into them.

        A side that is no multiple of 8 is continued at its end by repeating the last line of image and mask, and the
        results are cut to size. A program exported with open sizes takes multiples of 8 only: declare them as
        ``8 * torch.export.Dim(...)``.

        Args:
            image: RGB (or ``in_chans`` others) in [-1, 1], ``[B, C, H, W]``; what it shows in the hole does not matter.
            mask: ``[B, 1, H, W]``, hole where true or above 0.5.
            sketch: edges, 0 or 1, ``[B, 1, H, W]``, of which those in the hole count; only with ``sketch=True``.

        Returns:
            Results of the first and the second stage, ``[B, C, H, W]`` in (-1, 1), everywhere, not only in the hole.
            With ``seamless`` they are the image itself around it, and in it they may leave the range a little.

        Raises:
            ValueError: if shapes do not fit, or a sketch is missing or not wanted.
        """
        self._check(image, mask, sketch)
        height, width = image.shape[2:]
        hole = _hole(mask)
        image = image.masked_fill(hole, 0)
        hole = hole.to(image.dtype)
        guides = [hole.new_ones(hole.shape), hole]
        if sketch is not None:
            guides.insert(0, sketch.to(image.dtype) * hole)
        least = MIN_SIZE_REFLECT if self.padding == "reflect" else MULTIPLE
        bottom, right = _missing(height, least), _missing(width, least)
        x = torch.cat([image, *guides], 1)
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom), mode="replicate")

        coarse = torch.tanh(self.coarse(x))
        image, guides, hole = x[:, : self.in_chans], x[:, self.in_chans :], x[:, -1:]
        is_hole = hole > 0
        if self.seamless:
            coarse = clone_seamlessly(image, is_hole, coarse)
        filled = composite(image, is_hole, coarse)
        if self.guided_refinement:
            filled = torch.cat([filled, guides], 1)
        refined = torch.tanh(self.refine(filled, self._quarter(hole)))
        if self.seamless:
            refined = clone_seamlessly(image, is_hole, refined)
        if bottom or right:
            coarse, refined = coarse[:, :, :height, :width], refined[:, :, :height, :width]
        return coarse, refined

    def _quarter(self, hole: Tensor) -> Tensor:
        if self.padding == "same":
            return resize_nearest_aligned(hole, hole.shape[2] // 4, hole.shape[3] // 4)
        return hole[:, :, ::4, ::4]

    def _check(self, image: Tensor, mask: Tensor, sketch: Optional[Tensor]) -> None:
        if image.ndim != 4 or image.shape[1] != self.in_chans:
            raise ValueError(f"image must be [B, {self.in_chans}, H, W], got {tuple(image.shape)}")
        if (sketch is not None) != self.sketch:
            wanted = "needs a sketch" if self.sketch else "takes no sketch; build it with sketch=True"
            raise ValueError(f"this generator {wanted}")
        for name, x in (("mask", mask), ("sketch", sketch)):
            if x is not None and x.shape != (image.shape[0], 1, *image.shape[2:]):
                raise ValueError(f"{name} must be [B, 1, H, W] for image {tuple(image.shape)}, got {tuple(x.shape)}")


def _missing(size: int, least: int) -> int:
    """Return the pixels that a side lacks to be a multiple of 8 of at least ``least``."""
    if isinstance(size, int):
        return max(least, -(-size // MULTIPLE) * MULTIPLE) - size
    # An exported program that leaves the size open is for multiples that are large enough.
    return -size % MULTIPLE


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """Bring a state dict in the names of any published weights, or in ours, into the model's.

    Weights under TensorFlow's names are swapped from BGR to RGB; others are taken to be RGB.

    Args:
        state_dict: tensors by name, bare or under ``state_dict``, ``model`` or ``G``.
        model: the model to load them into.

    Raises:
        ValueError: if it is not a state dict of such a model, or one that pads in another way.
    """
    converted, padding = convert_generator(state_dict)
    if padding is not None and padding != model.padding:
        raise ValueError(
            f"these are weights of {MODEL_OF_PADDING[padding]} (padding {padding!r}), the model pads {model.padding!r}"
        )
    return match_model(converted, model)


def _cfg(url: str = "", **kwargs: Any) -> dict[str, Any]:
    return {
        **({"url": url} if url else {}),
        "input_size": (3, 256, 256),
        "num_classes": 0,
        "pool_size": None,
        "crop_pct": 1.0,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "first_conv": None,
        "classifier": None,
        "license": "cc-by-nc-4.0",
        "paper_ids": "arXiv:1806.03589",
        "origin_url": "https://github.com/JiahuiYu/generative_inpainting",
        **kwargs,
    }


PORT = {"origin_url": "https://github.com/nipponjo/deepfillv2-pytorch", "license": "unknown"}
MMAGIC = {"origin_url": "https://github.com/open-mmlab/mmagic", "license": "apache-2.0"}
MMAGIC_FILES = "https://download.openmmlab.com/mmediting/inpainting/deepfillv2/deepfillv2_256x256_8x2"

# The first two have no weights that may be had from here by name: convert a file, and pass it.
default_cfgs = generate_default_cfgs(
    {
        "deepfillv2": _cfg(),
        "deepfillv2_port": _cfg(**PORT),
        "deepfillv2_mmagic.places2": _cfg(f"{MMAGIC_FILES}_places_20200619-10d15793.pth#sha256=10d15793", **MMAGIC),
        "deepfillv2_mmagic.celeba_hq": _cfg(f"{MMAGIC_FILES}_celeba_20200619-c96e5f12.pth#sha256=c96e5f12", **MMAGIC),
    }
)


def _create_deepfillv2(variant: str, pretrained: bool, overrides: dict[str, Any], **model_args: Any) -> DeepFillV2:
    if overrides.pop("features_only", False):
        raise ValueError(f"{variant} is a generator and has no features to return; leave features_only out")
    # A hub says 0, and timm passes on what a cfg says.
    if num_classes := overrides.pop("num_classes", 0):
        raise TypeError(f"{variant} is a generator and takes no num_classes, got {num_classes}")
    model_args["kwargs_filter"] = ("num_classes",)
    return build_backbone(DeepFillV2, variant, pretrained, checkpoint_filter_fn, (), **{**model_args, **overrides})


@register_model
def deepfillv2(pretrained: bool = False, **kwargs: Any) -> DeepFillV2:
    """DeepFill v2 as published in TensorFlow, 4.05 M parameters."""
    return _create_deepfillv2("deepfillv2", pretrained, kwargs)


@register_model
def deepfillv2_port(pretrained: bool = False, **kwargs: Any) -> DeepFillV2:
    """DeepFill v2 as nipponjo's ``networks.py`` has it, for the weights fine-tuned with it."""
    return _create_deepfillv2("deepfillv2_port", pretrained, kwargs, padding="symmetric")


@register_model
def deepfillv2_mmagic(pretrained: bool = False, **kwargs: Any) -> DeepFillV2:
    """DeepFill v2 as mmagic has it, 4.41 M parameters; its weights may be used commercially."""
    differences = {
        "padding": "reflect",
        "masked_scores": "exclude",
        "overlap": "count",
        "attention_activation": "elu",
        "gated_output": True,
        "guided_refinement": True,
        "wide_decoder": True,
    }
    return _create_deepfillv2("deepfillv2_mmagic", pretrained, kwargs, **differences)
