"""U-Net decoder with attention gates, over any pyramid of features."""

from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedvision.layers.attention_gate import AttentionGate, GridAttentionGate, SameGridAttentionGate
from gatedvision.layers.conv_batch_norm import ConvBatchNorm

GATES = ("same_grid", "grid")
MAX_DIM, MIN_DIM = 256, 16
NORMS = {"batchnorm": True, "identity": False, True: True, False: False}


class AttentionUnetBlock(nn.Module):
    """Enlarge what comes from below, gate the skip connection with it, and merge the two by two 3x3 convolutions.

    Args:
        below_dim: channels from below.
        skip_dim: channels of the skip connection, 0 for none.
        dim: channels of the output.
        gate: ``"same_grid"`` or ``"grid"``.
        norm: have batch norms behind the convolutions.
        mode: of ``F.interpolate``.
        align_corners: of linear resampling within a grid gate.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        below_dim: int,
        skip_dim: int,
        dim: int,
        gate: str,
        norm: bool,
        mode: str,
        align_corners: bool,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.mode = mode
        self.is_grid = gate == "grid"
        self.gate: Optional[AttentionGate] = None
        if skip_dim > 0 and self.is_grid:
            self.gate = GridAttentionGate(skip_dim, below_dim, skip_dim, align_corners=align_corners, **dd)
        elif skip_dim > 0:
            self.gate = SameGridAttentionGate(skip_dim, below_dim, **dd)
        self.merge = nn.Sequential(
            ConvBatchNorm(below_dim + skip_dim, dim, norm=norm, **dd), ConvBatchNorm(dim, dim, norm=norm, **dd)
        )

    def forward(
        self, x: Tensor, skip: Optional[Tensor] = None, size: Optional[Sequence[int]] = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Merge what comes from below with the skip connection.

        Args:
            x: ``[B, below_dim, H', W']``.
            skip: ``[B, skip_dim, H, W]``, if the block has a skip connection.
            size: rows and columns of the output, twice those of ``x`` by default.

        Returns:
            ``[B, dim, H, W]`` and the attention map ``[B, 1, H, W]`` in a list, which is empty without a gate.
        """
        below = x
        if size is None:
            x = F.interpolate(x, scale_factor=2.0, mode=self.mode)
        elif list(x.shape[2:]) != list(size):
            x = F.interpolate(x, size=list(size), mode=self.mode)
        if self.gate is None or skip is None:
            return self.merge(x), []
        gated, attention = self.gate(x=skip, gating=below if self.is_grid else x, return_attention=True)
        return self.merge(torch.cat([x, gated], 1)), [attention]


class AttentionUnetDecoder(nn.Module):
    """U-Net decoder whose skip connections are gated by what comes from below (arXiv:1804.03999).

    The first seven arguments and ``forward`` are those of the U-Net decoder of segmentation_models_pytorch, which it
    can replace: ``model.decoder = AttentionUnetDecoder(model.encoder.out_channels, (256, 128, 64, 32, 16))``. For an
    encoder of timm, :meth:`for_encoder` finds the arguments.

    There are as many blocks as ``decoder_channels``. The first merge the skip connections, each at its size, the rest
    only double the sides, the last to the size of the image where ``image_first`` tells it. Without it, the output of
    an image whose sides are no multiples of the encoder's stride is as much larger: cut or resize it.

    Args:
        encoder_channels: channels of the features, the finest first, with ``image_first`` after those of the image;
            0 for a level that has none.
        decoder_channels: channels of each block's output, the coarsest first.
        n_blocks: number of blocks, that of ``decoder_channels`` by default.
        use_norm: ``True`` or ``"batchnorm"``, or ``False`` or ``"identity"`` for none behind convolutions; a gate on
            the same grid has batch norms anyway.
        attention_type: None; the gates are the attention.
        add_center_block: have two more convolutions on the coarsest features.
        interpolation_mode: of ``F.interpolate`` where the sides grow.
        image_first: the list of features begins with the image itself, of which only the size is used.
        gate: ``"same_grid"``, the popular gate, or ``"grid"``, the paper's.
        align_corners: of linear resampling within the paper's gate.
        channels_last: features are ``[B, H, W, C]``.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if an argument is unknown, or there are fewer blocks than skip connections.
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        decoder_channels: Sequence[int],
        n_blocks: Optional[int] = None,
        use_norm: Union[bool, str] = "batchnorm",
        attention_type: Optional[str] = None,
        add_center_block: bool = False,
        interpolation_mode: str = "nearest",
        image_first: bool = True,
        gate: str = "same_grid",
        align_corners: bool = False,
        channels_last: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if n_blocks is not None and n_blocks != len(decoder_channels):
            raise ValueError(f"decoder_channels {tuple(decoder_channels)} must have n_blocks entries, got {n_blocks}")
        if attention_type is not None:
            raise ValueError(f"this decoder's attention is its gates; pass attention_type=None, not {attention_type!r}")
        if gate not in GATES:
            raise ValueError(f"gate must be one of {', '.join(GATES)}, got {gate!r}")
        if not isinstance(use_norm, (bool, str)) or use_norm not in NORMS:
            raise ValueError(f"use_norm must be 'batchnorm' (True) or 'identity' (False), got {use_norm!r}")
        dims = list(encoder_channels)[1 if image_first else 0 :]
        if not 1 <= len(dims) <= len(decoder_channels) + 1:
            raise ValueError(
                f"features of {tuple(dims)} channels need {max(len(dims) - 1, 0)} blocks or more, got decoder_channels "
                f"{tuple(decoder_channels)}"
            )
        dd = {"device": device, "dtype": dtype}
        norm = NORMS[use_norm]
        self.encoder_channels = tuple(encoder_channels)
        self.out_channels = decoder_channels[-1]
        self.image_first = image_first
        self.channels_last = channels_last
        *skip_dims, below_dim = dims
        self.center = nn.Identity()
        if add_center_block:
            self.center = nn.Sequential(*(ConvBatchNorm(below_dim, below_dim, norm=norm, **dd) for _ in range(2)))
        blocks = []
        for index, dim in enumerate(decoder_channels):
            skip_dim = skip_dims[-1 - index] if index < len(skip_dims) else 0
            blocks.append(
                AttentionUnetBlock(below_dim, skip_dim, dim, gate, norm, interpolation_mode, align_corners, **dd)
            )
            below_dim = dim
        self.blocks = nn.ModuleList(blocks)

    @classmethod
    def for_encoder(
        cls, encoder: nn.Module, decoder_channels: Optional[Sequence[int]] = None, **kwargs: Any
    ) -> "AttentionUnetDecoder":
        """Return a decoder for an encoder that ``timm.create_model(..., features_only=True)`` made.

        Args:
            encoder: the encoder.
            decoder_channels: channels of each block's output; by default 256, halved from block to block down to 16,
                for as many blocks as it takes to reach the image's size.
            **kwargs: further arguments of the constructor.

        Raises:
            TypeError: if the encoder does not tell its features.
        """
        info = getattr(encoder, "feature_info", None)
        if info is None or not hasattr(info, "channels"):
            raise TypeError(f"{type(encoder).__name__} has no feature_info; create it with features_only=True")
        channels, reductions = info.channels(), info.reduction()
        if decoder_channels is None:
            blocks = len(channels) - 1 + (reductions[0] - 1).bit_length()
            decoder_channels = [max(MAX_DIM >> block, MIN_DIM) for block in range(blocks)]
        last = str(getattr(encoder, "output_fmt", "NCHW")).upper().endswith("NHWC")
        return cls(channels, decoder_channels, **{"image_first": False, "channels_last": last, **kwargs})

    def forward(
        self, features: Sequence[Tensor], return_attention: bool = False
    ) -> Union[Tensor, tuple[Tensor, list[Tensor]]]:
        """Decode an encoder's features.

        Args:
            features: maps ``[B, C_i, H_i, W_i]`` of ``encoder_channels``, the finest first.
            return_attention: return the coefficients of every gate, too.

        Returns:
            ``[B, out_channels, H, W]``, and with ``return_attention`` a list of maps ``[B, 1, H_i, W_i]``, the
            coarsest first.

        Raises:
            ValueError: for another number of maps than ``encoder_channels`` has.
        """
        if len(features) != len(self.encoder_channels):
            raise ValueError(f"expected {len(self.encoder_channels)} maps, got {len(features)}")
        maps = list(features)
        image_size = maps.pop(0).shape[2:] if self.image_first else None
        if self.channels_last:
            maps = [x.permute(0, 3, 1, 2) for x in maps]
        x = self.center(maps.pop())
        attention = []
        for index, block in enumerate(self.blocks):
            skip, size = None, None
            if maps:
                skip = maps.pop()
                size = skip.shape[2:]
            elif index == len(self.blocks) - 1:
                size = image_size
            x, coefficients = block(x, skip, size)
            attention += coefficients
        return (x, attention) if return_attention else x
