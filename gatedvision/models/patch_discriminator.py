"""SN-PatchGAN: the discriminator of free-form inpainting.

Paper: J. Yu et al., "Free-Form Image Inpainting with Gated Convolution", https://arxiv.org/abs/1806.03589, section 3.2.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gatedvision.layers._autocast import without_autocast
from gatedvision.layers.gated_conv import PaddedConv2d
from gatedvision.models._deepfill_names import convert_discriminator

__all__ = ["PatchDiscriminator"]


class PatchDiscriminator(nn.Module):
    """Six strided convolutions with spectral norm: a score for every channel of every patch.

    The spectral norm is torch's: one step of power iteration in each forward pass in training mode, none in evaluation,
    no gradient through its vectors. (Published code steps in evaluation, too, and in the generator's update, and lets
    gradients through.)

    Args:
        in_chans: channels of image and mask, and of a sketch if there is one.
        dims: channels of each layer.
        normalize: apply the spectral norm.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        in_chans: int = 4,
        dims: Sequence[int] = (64, 128, 256, 256, 256, 256),
        normalize: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_chans = in_chans
        layers: list[nn.Module] = []
        for before, dim in zip((in_chans, *dims[:-1]), dims, strict=True):
            layer = PaddedConv2d(before, dim, 5, stride=2, device=device, dtype=dtype)
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
            layers.append(spectral_norm(layer) if normalize else layer)
        self.layers = nn.ModuleList(layers)

    def forward(self, image: Tensor, mask: Tensor, sketch: Optional[Tensor] = None) -> Tensor:
        """Score images.

        Args:
            image: RGB in [-1, 1], real or completed, ``[B, 3, H, W]``.
            mask: ``[B, 1, H, W]``, hole where true or 1.
            sketch: edges, ``[B, 1, H, W]``, if ``in_chans`` counts them.

        Returns:
            ``[B, C, H/64, W/64]``, sides rounded up; high for real.

        Raises:
            ValueError: if the channels do not add up to ``in_chans``.
        """
        parts = [image, mask.to(image.dtype)] + ([] if sketch is None else [sketch.to(image.dtype)])
        x = torch.cat(parts, 1)
        if x.shape[1] != self.in_chans:
            raise ValueError(f"image, mask and sketch have {x.shape[1]} channels, this discriminator {self.in_chans}")
        layers: Any = self.layers
        # Normalised in the precision that they are kept in.
        with without_autocast(x):
            weights = [layer.weight for layer in layers]
        for layer, weight in zip(layers, weights, strict=True):
            x = F.leaky_relu(layer.convolve(x, weight, layer.bias), 0.2)
        return x

    def load_published(self, state_dict: Mapping[str, Any], bgr: Optional[bool] = None) -> None:
        """Load weights in TensorFlow's names, those of nipponjo's port, or ours.

        Args:
            state_dict: tensors by name, bare or under ``state_dict``, ``model`` or ``D``.
            bgr: the weights are for BGR images; by default those in TensorFlow's names are.

        Raises:
            RuntimeError: if names or shapes do not fit.
        """
        self.load_state_dict(convert_discriminator(state_dict, bgr))
