"""Multi-order depthwise convolution."""

import pytest
import torch

from gatedvision.layers import MultiOrderDWConv
from tests.layers.naive_moganet import multi_order


@pytest.mark.parametrize(
    ("dim", "dilations", "channel_split", "widths"),
    [
        (8, (1, 2, 3), (1, 3, 4), (1, 3, 4)),
        (16, (1, 2, 1), (1, 3, 4), (2, 6, 8)),
        (12, (2, 1, 2), (2, 1, 1), (6, 3, 3)),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (5, 11)])
def test_against_shifted_sums(dim, dilations, channel_split, widths, size) -> None:
    torch.manual_seed(0)
    layer = MultiOrderDWConv(dim, dilations, channel_split, dtype=torch.float64)
    x = torch.randn(2, *size, dim, dtype=torch.float64)
    torch.testing.assert_close(layer(x), multi_order(x, layer, dilations, widths))


def test_reach_of_the_groups() -> None:
    layer = MultiOrderDWConv(8)
    for conv in (layer.conv_low, layer.conv_middle, layer.conv_high):
        torch.nn.init.ones_(conv.weight)
    torch.nn.init.eye_(layer.proj.weight)
    x = torch.zeros(1, 41, 41, 8)
    x[0, 20, 20] = 1
    reached = (layer(x) - layer(torch.zeros_like(x))).detach().abs().amax((0, 1)) > 1e-3
    columns = reached.nonzero()
    reach = [int(columns[columns[:, 1] == c, 0].max() - columns[columns[:, 1] == c, 0].min()) + 1 for c in range(8)]
    assert reach == [5] + [13] * 3 + [23] * 4


def test_wrong_arguments_name_the_values() -> None:
    with pytest.raises(ValueError, match=r"multiple of 8 to be split \(1, 3, 4\), got 20"):
        MultiOrderDWConv(20)
    with pytest.raises(ValueError, match=r"dilations must be three positive numbers, got \(1, 2\)"):
        MultiOrderDWConv(16, dilations=(1, 2))
    with pytest.raises(ValueError, match=r"channel_split must be three positive numbers, got \(0, 1, 1\)"):
        MultiOrderDWConv(16, channel_split=(0, 1, 1))
