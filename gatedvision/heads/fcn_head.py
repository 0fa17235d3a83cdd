"""The fully convolutional head that helps a deeper one to train."""

from collections.abc import Sequence
from typing import Any

from timm.layers import ConvNormAct
from torch import Tensor, nn


class FCNHead(nn.Module):
    """A 3x3 convolution with batch norm and ReLU, and a classifier, on one of the backbone's maps.

    Beside UPerNet it gives the backbone's third stage a loss of its own, the way of PSPNet (arXiv:1612.01105,
    section 3.3).

    Args:
        in_dims: channels of the backbone's maps, the finest first.
        num_classes: classes.
        index: the map it looks at.
        dim: channels within the head.
        drop_rate: dropout of whole channels before the classifier, 0 to 1.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: there is no map of that index.
    """

    def __init__(
        self,
        in_dims: Sequence[int],
        num_classes: int,
        index: int = 2,
        dim: int = 256,
        drop_rate: float = 0.1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if not 0 <= index < len(in_dims):
            raise ValueError(f"index must lie in 0..{len(in_dims) - 1}, one of the {len(in_dims)} maps, got {index}")
        dd = {"device": device, "dtype": dtype}
        self.index = index
        self.conv = ConvNormAct(in_dims[index], dim, 3, **dd)
        self.drop = nn.Dropout2d(drop_rate)
        self.classifier = nn.Conv2d(dim, num_classes, 1, **dd)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Classify every pixel of the map.

        Args:
            maps: the backbone's maps ``[B, C_i, H_i, W_i]``, the finest first.

        Returns:
            Logits ``[B, num_classes, H_index, W_index]``.
        """
        return self.classifier(self.drop(self.conv(maps[self.index])))
