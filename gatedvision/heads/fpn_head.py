"""Semantic FPN: a feature pyramid whose levels are brought to one size and added up (arXiv:1901.02446)."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from timm.layers import ConvNormAct
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork


class FPNHead(nn.Module):
    """The semantic branch of Panoptic FPN (Kirillov et al., arXiv:1901.02446, section 3.1 and figure 3).

    Each level of a feature pyramid goes through 3x3 convolutions with batch norm and ReLU, one for each doubling of
    its size up to the finest level's (one for the finest itself); the sum of all levels is classified. The paper has
    group norms; batch norms are what the published recipes of backbones use.

    Args:
        in_dims: channels of the backbone's maps, the finest first, each half the size of the one before it.
        num_classes: classes.
        pyramid_dim: channels of the pyramid.
        dim: channels of the levels that are added up.
        drop_rate: dropout of whole channels before the classifier, 0 to 1.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        in_dims: Sequence[int],
        num_classes: int,
        pyramid_dim: int = 256,
        dim: int = 128,
        drop_rate: float = 0.1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.pyramid = FeaturePyramidNetwork(list(in_dims), pyramid_dim).to(device=device, dtype=dtype)
        self.branches = nn.ModuleList(
            nn.ModuleList(ConvNormAct(pyramid_dim if step == 0 else dim, dim, 3, **dd) for step in range(max(level, 1)))
            for level in range(len(in_dims))
        )
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
        if len(maps) != len(self.branches):
            raise ValueError(f"expected {len(self.branches)} maps, got {len(maps)}")
        levels = self.pyramid(OrderedDict((str(level), x) for level, x in enumerate(maps))).values()
        outputs = []
        for level, x in enumerate(levels):
            convs: Any = self.branches[level]
            for step, conv in enumerate(convs, start=1):
                x = conv(x)
                if level > 0:
                    # To the sizes of the maps, which odd images do not let be exact doubles.
                    size = maps[level - step].shape[2:]
                    x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            outputs.append(x)
        return self.classifier(self.drop(sum(outputs[1:], start=outputs[0])))
