"""HorFPN: a feature pyramid whose output convolutions are recursive gated convolutions (HorNet, arXiv:2207.14284)."""

from collections.abc import Sequence
from typing import Any, Optional

import torch.nn.functional as F
from torch import Tensor, nn

from gatedvision.layers.linear import Linear
from gatedvision.layers.recursive_gated_conv import PUBLISHED_GATED_CONV_NAMES, RecursiveGatedConv

# Published parameter names, as (pattern, replacement).
PUBLISHED_NAMES = (
    (r"^lateral_convs\.(\d+)\.conv\.", r"laterals.\1."),
    (r"^fpn_convs\.", "outputs."),
    *PUBLISHED_GATED_CONV_NAMES,
)


class HorFPN(nn.Module):
    """Feature pyramid network with gnConv in the place of the 3x3 output convolutions.

    Projections bring all maps to one width, each map is added to the one of twice its size, and a recursive
    gated convolution, neither scaled nor followed by a norm or an activation, gives each level's output.

    Args:
        in_dims: channels of the backbone's maps, the finest first.
        dim: channels of the outputs.
        num_levels: outputs; those beyond the backbone's maps take every second pixel of the level before them.
        order: order of the recursive gated convolutions.
        kernel_size: side of their depthwise kernels, pixels, odd.
        map_size: compute their gates by global-local filters instead, stored for maps of so many rows and columns;
            (32, 32) in the published models.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if there are fewer levels than maps, or ``dim`` does not suit the order.
    """

    def __init__(
        self,
        in_dims: Sequence[int],
        dim: int = 256,
        num_levels: int = 5,
        order: int = 2,
        kernel_size: int = 7,
        map_size: Optional[tuple[int, int]] = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if num_levels < len(in_dims):
            raise ValueError(f"num_levels must be at least {len(in_dims)}, one for each of in_dims, got {num_levels}")
        dd = {"device": device, "dtype": dtype}
        self.num_levels = num_levels
        self.laterals = nn.ModuleList(Linear(in_dim, dim, **dd) for in_dim in in_dims)
        self.outputs = nn.ModuleList(
            RecursiveGatedConv(dim, order, kernel_size=kernel_size, map_size=map_size, **dd) for _ in in_dims
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Build the pyramid.

        Args:
            maps: the backbone's maps ``[B, C_i, H_i, W_i]``, the finest first.

        Returns:
            The levels ``[B, dim, H_i, W_i]``, channels last in memory.

        Raises:
            ValueError: for another number of maps than ``in_dims`` has.
        """
        if len(maps) != len(self.laterals):
            raise ValueError(f"expected {len(self.laterals)} maps, got {len(maps)}")
        streams = [
            lateral(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for lateral, x in zip(self.laterals, maps, strict=True)
        ]
        for level in range(len(streams) - 1, 0, -1):
            finer = streams[level - 1]
            streams[level - 1] = finer + F.interpolate(streams[level], size=finer.shape[2:], mode="nearest")
        levels = [
            output(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for output, x in zip(self.outputs, streams, strict=True)
        ]
        while len(levels) < self.num_levels:
            levels.append(levels[-1][:, :, ::2, ::2])
        return levels
