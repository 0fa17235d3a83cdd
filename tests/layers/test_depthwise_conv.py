"""Depthwise convolution of channels-last maps."""

import pytest
import torch

from gatedvision.layers import DepthwiseConv


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel_size", [1, 3, 7])
def test_each_channel_has_its_own_kernel(kernel_size: int, bias: bool) -> None:
    torch.manual_seed(0)
    module, x = DepthwiseConv(5, kernel_size, bias, dtype=torch.float64), torch.randn(2, 4, 6, 5, dtype=torch.float64)
    reach = kernel_size // 2
    padded = torch.zeros(2, 4 + 2 * reach, 6 + 2 * reach, 5, dtype=torch.float64)
    padded[:, reach : reach + 4, reach : reach + 6] = x
    expected = torch.zeros_like(x) if module.bias is None else module.bias.expand_as(x).clone()
    for i in range(kernel_size):
        for j in range(kernel_size):
            expected += padded[:, i : i + 4, j : j + 6] * module.weight[:, 0, i, j]
    torch.testing.assert_close(module(x), expected)


def test_channels_stay_last_in_memory() -> None:
    x = torch.randn(2, 9, 6, 10)
    assert DepthwiseConv(10, 7)(x).is_contiguous()
    # What precedes the gates in gnConv is a part of a wider map.
    assert DepthwiseConv(6, 7)(x[..., 4:]).is_contiguous()


def test_even_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size must be odd.*got 4"):
        DepthwiseConv(8, 4)
