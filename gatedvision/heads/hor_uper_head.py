"""UPerNet head whose last fusion is a recursive gated convolution (HorNet, arXiv:2207.14284)."""

from collections.abc import Sequence
from typing import Any, Optional

from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from gatedvision.heads.uper_head import UPerHead
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


class HorUPerHead(UPerHead):
    """UPerNet's head (Xiao et al., arXiv:1807.10221) with gnConv where all levels are fused.

    All but this last fusion is the plain head.

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
        super().__init__(in_dims, num_classes, dim, pool_sizes, drop_rate, device, dtype)
        self.fusion = GatedFusion(len(in_dims) * dim, dim, order, kernel_size, map_size, device=device, dtype=dtype)
