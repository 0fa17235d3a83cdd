"""UPerNet head whose last fusion is a recursive gated convolution (HorNet, arXiv:2207.14284)."""

from collections.abc import Sequence
from typing import Any, Optional

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, ConvNormAct
from torch import Tensor, nn

from gatedvision.layers.recursive_gated_conv import PUBLISHED_GATED_CONV_NAMES, RecursiveGatedConv

# Published parameter names, as (pattern, replacement).
PUBLISHED_NAMES = (
    (r"^psp_modules\.", "pools."),
    (r"^bottleneck\.", "pool_fusion."),
    (r"^lateral_convs\.", "laterals."),
    (r"^fpn_convs\.", "smooths."),
    (r"^fpn_bottleneck\.bn\.", "fusion.norm."),
    (r"^fpn_bottleneck\.", "fusion.gated_conv."),
    (r"^conv_seg\.", "classifier."),
    *PUBLISHED_GATED_CONV_NAMES,
)


class GatedFusion(nn.Module):
    """A recursive gated convolution, not scaled, then a batch norm and a ReLU.

    Args:
        in_dim: channels of the input.
        dim: channels of the output.
        order: order of the recursive gated convolution.
        kernel_size: side of its depthwise kernel, pixels, odd.
        map_size: compute its gates by a global-local filter instead, stored for maps of so many rows and columns.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        order: int = 2,
        kernel_size: int = 7,
        map_size: Optional[tuple[int, int]] = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.gated_conv = RecursiveGatedConv(dim, order, in_dim, kernel_size, map_size, **dd)
        self.norm = BatchNormAct2d(dim, act_layer=nn.ReLU, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to ``[B, D, H, W]``."""
        return self.norm(self.gated_conv(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class HorUPerHead(nn.Module):
    """UPerNet's head (Xiao et al., arXiv:1807.10221) with gnConv where all levels are fused.

    Pooled views of the coarsest map are fused with it; a feature pyramid passes the result down to the finest
    map; all levels, brought to its size, are fused and classified. All but the last fusion is the plain head.

    Args:
        in_dims: channels of the backbone's maps, the finest first.
        num_classes: classes.
        dim: channels within the head; 512 in the published models.
        pool_sizes: rows and columns of the pooled views.
        order: order of the recursive gated convolution.
        kernel_size: side of its depthwise kernel, pixels, odd.
        map_size: compute its gates by a global-local filter instead, stored for maps of so many rows and columns;
            (32, 32) in the published models.
        drop_rate: dropout of whole channels before the classifier, 0 to 1.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if ``dim`` does not suit the order.
    """

    def __init__(
        self,
        in_dims: Sequence[int],
        num_classes: int,
        dim: int = 512,
        pool_sizes: Sequence[int] = (1, 2, 3, 6),
        order: int = 2,
        kernel_size: int = 7,
        map_size: Optional[tuple[int, int]] = None,
        drop_rate: float = 0.1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        *finer_dims, top_dim = in_dims
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), ConvNormAct(top_dim, dim, 1, **dd)) for size in pool_sizes
        )
        self.pool_fusion = ConvNormAct(top_dim + len(pool_sizes) * dim, dim, 3, **dd)
        self.laterals = nn.ModuleList(ConvNormAct(in_dim, dim, 1, **dd) for in_dim in finer_dims)
        self.smooths = nn.ModuleList(ConvNormAct(dim, dim, 3, **dd) for _ in finer_dims)
        self.fusion = GatedFusion(len(in_dims) * dim, dim, order, kernel_size, map_size, **dd)
        self.drop = nn.Dropout2d(drop_rate)
        self.classifier = nn.Conv2d(dim, num_classes, 1, **dd)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Classify every pixel of the finest map.

        Args:
            maps: the backbone's maps ``[B, C_i, H_i, W_i]``, the finest first.

        Returns:
            Logits ``[B, num_classes, H_0, W_0]``, to be resized to the image.

        Raises:
            ValueError: for another number of maps than ``in_dims`` has.
        """
        if len(maps) != len(self.laterals) + 1:
            raise ValueError(f"expected {len(self.laterals) + 1} maps, got {len(maps)}")
        *finer, top = maps
        pooled = self.pool_fusion(torch.cat([top, *(_resize(pool(top), top) for pool in self.pools)], dim=1))
        streams = [*(lateral(x) for lateral, x in zip(self.laterals, finer, strict=True)), pooled]
        for level in range(len(streams) - 1, 0, -1):
            streams[level - 1] = streams[level - 1] + _resize(streams[level], streams[level - 1])
        levels = [*(smooth(x) for smooth, x in zip(self.smooths, streams, strict=False)), pooled]
        fused = self.fusion(torch.cat([_resize(x, levels[0]) for x in levels], dim=1))
        return self.classifier(self.drop(fused))


def _resize(x: Tensor, like: Tensor) -> Tensor:
    """Resize a map to the rows and columns of another."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)
