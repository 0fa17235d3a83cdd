"""New maps lie in memory as the maps they are made beside."""

import pytest
import torch

from gatedvision_kernels._maps import channels_last, new_map


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_order(memory_format):
    x = torch.empty(2, 6, 4, 5, dtype=torch.bfloat16).contiguous(memory_format=memory_format)
    y = new_map(x, 3)
    assert channels_last(x) == channels_last(y) == (memory_format == torch.channels_last)
    assert y.shape == (2, 3, 4, 5) and y.dtype == x.dtype and y.is_contiguous(memory_format=memory_format)


def test_parts_of_maps_make_dense_ones():
    x = torch.empty(2, 4, 5, 6).permute(0, 3, 1, 2)[:, :4, ::2]
    assert new_map(x, 4).is_contiguous(memory_format=torch.channels_last)
