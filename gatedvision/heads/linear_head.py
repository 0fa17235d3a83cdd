"""The head that is only a classifier."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class LinearHead(nn.Module):
    """A classifier of the pixels of one map, the linear decoder of Segmenter (arXiv:2105.05633, section 3.2).

    Args:
        in_dims: channels of the backbone's maps, the finest first.
        num_classes: classes.
        index: the map it looks at, negative from the end.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: there is no map of that index.
    """

    def __init__(
        self, in_dims: Sequence[int], num_classes: int, index: int = -1, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        if not -len(in_dims) <= index < len(in_dims):
            raise ValueError(f"index must name one of the {len(in_dims)} maps, got {index}")
        self.index = index
        self.classifier = nn.Conv2d(in_dims[index], num_classes, 1, device=device, dtype=dtype)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Classify every pixel of the map.

        Args:
            maps: the backbone's maps ``[B, C_i, H_i, W_i]``, the finest first.

        Returns:
            Logits ``[B, num_classes, H_index, W_index]``.
        """
        return self.classifier(maps[self.index])
