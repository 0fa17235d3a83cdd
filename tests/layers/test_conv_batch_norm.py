"""Convolution, batch norm and ReLU over two or three dimensions."""

import pytest
import torch
from torch import nn

from gatedvision.layers.conv_batch_norm import ConvBatchNorm, make_transposed_conv


def test_parts_and_sizes() -> None:
    block = ConvBatchNorm(2, 4, (3, 5, 1), (2, 1, 1), spatial_dims=3, drop_rate=0.2)
    types = (nn.Conv3d, nn.BatchNorm3d, nn.Dropout, nn.ReLU)
    assert all(isinstance(part, kind) for part, kind in zip(block, types, strict=True))
    assert block(torch.randn(2, 2, 8, 7, 5)).shape == (2, 4, 4, 7, 5)
    assert [name for name, _ in ConvBatchNorm(2, 4, norm=False, relu=False).named_children()] == ["conv"]
    with pytest.raises(ValueError, match="kernel_size must be odd, got 4"):
        ConvBatchNorm(2, 4, 4)


@pytest.mark.parametrize(("kernel_size", "stride"), [(2, 2), (3, 2), (4, 2), (5, 2), (3, 1), (5, 3), ((4, 1), (2, 1))])
def test_transposed_convolutions_enlarge_exactly(kernel_size: int, stride: int) -> None:
    conv = make_transposed_conv(2, 3, kernel_size, stride)
    steps = (stride, stride) if isinstance(stride, int) else stride
    assert conv(torch.randn(1, 2, 4, 5)).shape == (1, 3, 4 * steps[0], 5 * steps[1])
