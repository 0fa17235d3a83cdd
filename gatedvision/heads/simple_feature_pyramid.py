"""A feature pyramid from the last map of a plain backbone (ViTDet, arXiv:2203.16527, section 3)."""

from collections.abc import Sequence
from typing import Any

from timm.layers import LayerNorm2d
from torch import Tensor, nn


class SimpleFeaturePyramid(nn.Module):
    """Makes maps of several strides out of one: by transposed convolutions finer ones, by max pooling coarser ones.

    Each level then goes through a 1x1 and a 3x3 convolution, both with layer norm over the channels; there are no
    lateral or top-down connections. Of a backbone of stride 16, the default levels have strides 4, 8, 16 and 32.

    Args:
        in_dim: channels of the map.
        dim: channels of the levels.
        scales: size of each level against the map, powers of two. Each doubling halves the channels.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: a scale is no power of two, or ``in_dim`` cannot be halved often enough.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int = 256,
        scales: Sequence[float] = (4.0, 2.0, 1.0, 0.5),
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_level(in_dim, dim, scale, {"device": device, "dtype": dtype}) for scale in scales)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Build the pyramid.

        Args:
            maps: the backbone's maps; only the last ``[B, in_dim, H, W]`` is used.

        Returns:
            The levels ``[B, dim, scale * H, scale * W]``, rounded up.
        """
        return [level(maps[-1]) for level in self.levels]


def _level(in_dim: int, dim: int, scale: float, dd: dict[str, Any]) -> nn.Sequential:
    numerator, denominator = float(scale).as_integer_ratio() if scale > 0 else (0, 1)
    if numerator & (numerator - 1) or denominator & (denominator - 1) or not numerator:
        raise ValueError(f"scales must be powers of two, got {scale}")
    if in_dim % numerator:
        raise ValueError(f"in_dim must be divisible by the scale, got {in_dim} channels and a scale of {scale}")
    doublings = numerator.bit_length() - 1
    layers: list[nn.Module] = []
    for step in range(doublings):
        layers.append(nn.ConvTranspose2d(in_dim, in_dim // 2, kernel_size=2, stride=2, **dd))
        in_dim //= 2
        if step < doublings - 1:
            layers += [LayerNorm2d(in_dim, **dd), nn.GELU()]
    # The window reaches over the edge, so that a single pixel stays one.
    layers += [nn.MaxPool2d(kernel_size=2, ceil_mode=True) for _ in range(denominator.bit_length() - 1)]
    layers += [nn.Conv2d(in_dim, dim, kernel_size=1, bias=False, **dd), LayerNorm2d(dim, **dd)]
    layers += [nn.Conv2d(dim, dim, kernel_size=3, padding=1, bias=False, **dd), LayerNorm2d(dim, **dd)]
    return nn.Sequential(*layers)
