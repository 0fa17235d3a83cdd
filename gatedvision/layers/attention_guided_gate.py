"""Gates for depth completion: a camera image decides which depth to trust, and depth what of the image to keep.

Paper: D. Chen et al., "AGG-Net: Attention Guided Gated-convolutional Network for Depth Image Completion",
https://arxiv.org/abs/2309.01624 (ICCV 2023). The authors' released code does not run as it is; the layers here follow
the paper's description, and state where they go beyond it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _conv_norm(in_chans: int, dim: int, kernel_size: int, stride: int = 1, **dd: Any) -> nn.Sequential:
    conv = nn.Conv2d(in_chans, dim, kernel_size, stride, kernel_size // 2, bias=False, padding_mode="replicate", **dd)
    return nn.Sequential(conv, nn.BatchNorm2d(dim, **dd))


class AttentionGuidedGatedConv2d(nn.Module):
    """Gated convolution of depth, its gate from depth and image by a network over positions.

    Value: two 3x3 convolutions of the depth features, the second with the stride, each with batch norm and leaky ReLU
    of slope 0.2. Gate: a 3x3 convolution of depth and image features with the stride, then two linear layers over the
    flattened positions of a map, shared by all channels, ReLU between them, and a sigmoid. Output: value times gate.

    The linear layers know one size of map. Other sizes are averaged to it and their gates resized back, bilinearly,
    before the sigmoid, which the paper does not have; at that size the layer is the paper's.

    Args:
        depth_chans: channels of the depth features.
        image_chans: channels of the image features.
        dim: channels of the output.
        map_size: rows and columns of the output map that the linear layers are made for.
        stride: step between outputs, pixels.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        depth_chans: int,
        image_chans: int,
        dim: int,
        map_size: tuple[int, int],
        stride: int = 2,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.map_size = (map_size[0], map_size[1])
        positions = map_size[0] * map_size[1]
        self.value = nn.Sequential(
            _conv_norm(depth_chans, dim, 3, **dd),
            nn.LeakyReLU(0.2),
            _conv_norm(dim, dim, 3, stride, **dd),
            nn.LeakyReLU(0.2),
        )
        self.conv_gate = nn.Conv2d(depth_chans + image_chans, dim, 3, stride, 1, padding_mode="replicate", **dd)
        self.attention = nn.Sequential(
            nn.Linear(positions, positions, **dd), nn.ReLU(), nn.Linear(positions, positions, **dd)
        )

    def forward(self, depth: Tensor, image: Tensor) -> Tensor:
        """Gate depth features.

        Args:
            depth: ``[B, depth_chans, H, W]``.
            image: ``[B, image_chans, H, W]``.

        Returns:
            ``[B, dim, H', W']``, sides divided by the stride and rounded up.
        """
        gate = self.conv_gate(torch.cat([depth, image], 1))
        size = (gate.shape[2], gate.shape[3])
        fits = size == self.map_size
        if not fits:
            gate = F.adaptive_avg_pool2d(gate, self.map_size)
        gate = self.attention(gate.flatten(2)).unflatten(2, self.map_size)
        if not fits:
            gate = F.interpolate(gate, size, mode="bilinear", align_corners=False)
        return self.value(depth) * torch.sigmoid(gate)


class AttentionGuidedSkip(nn.Module):
    """Skip connection of image features, weighted by what depth features of the decoder say.

    With convolutions that end in a batch norm N::

        w = sigmoid(N(1x1 relu([N(3x3 image), N(1x1 depth)])))
        y = image w

    Args:
        image_chans: channels of the image features and of the output.
        depth_chans: channels of the depth features.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(self, image_chans: int, depth_chans: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.image = _conv_norm(image_chans, image_chans, 3, **dd)
        self.depth = _conv_norm(depth_chans, image_chans, 1, **dd)
        self.weight = _conv_norm(2 * image_chans, image_chans, 1, **dd)

    def forward(self, image: Tensor, depth: Tensor) -> Tensor:
        """Weight image features.

        Args:
            image: ``[B, image_chans, H, W]``.
            depth: ``[B, depth_chans, H, W]``.

        Returns:
            ``[B, image_chans, H, W]``.
        """
        both = torch.cat([self.image(image), self.depth(depth)], 1)
        return image * torch.sigmoid(self.weight(F.relu(both)))
