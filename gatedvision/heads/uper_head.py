"""UPerNet's head: pyramid pooling, a feature pyramid, and the fusion of its levels (arXiv:1807.10221)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import ConvNormAct
from torch import Tensor, nn


class UPerHead(nn.Module):
    """The head of UPerNet for one kind of labels (Xiao et al., arXiv:1807.10221, section 3.1).

    Pooled views of the coarsest map are fused with it; a feature pyramid passes the result down to the finest
    map; all levels, brought to its size, are fused and classified.

    Args:
        in_dims: channels of the backbone's maps, the finest first.
        num_classes: classes.
        dim: channels within the head; 512 in the published recipes.
        pool_sizes: rows and columns of the pooled views.
        drop_rate: dropout of whole channels before the classifier, 0 to 1.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        in_dims: Sequence[int],
        num_classes: int,
        dim: int = 512,
        pool_sizes: Sequence[int] = (1, 2, 3, 6),
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
        self.fusion: nn.Module = ConvNormAct(len(in_dims) * dim, dim, 3, **dd)
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
