"""Layouts that a CPU convolves fast: same values, and strides that convolutions follow."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedvision.layers._memory_format import join_channels


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sides", [(6, 5), (4, 6, 5)])
def test_channels_are_last_and_stay_so(channels: int, sides: tuple[int, ...]) -> None:
    x = torch.randn(2, channels, *sides)
    y = join_channels(x)
    assert torch.equal(x, y) and y.stride(1) == 1
    conv, layout = (F.conv2d, torch.channels_last) if len(sides) == 2 else (F.conv3d, torch.channels_last_3d)
    assert conv(y, torch.randn(4, channels, *(3,) * len(sides)), padding=1).is_contiguous(memory_format=layout)
    assert join_channels(y).data_ptr() == y.data_ptr()


def test_recorded_programs_keep_their_layout() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return join_channels(x)

    program = torch.export.export(Model(), (torch.randn(2, 3, 4, 5),))
    assert not [node for node in program.graph.nodes if node.op == "call_function"]
    scripted = torch.jit.script(Model())
    assert scripted(torch.randn(2, 3, 4, 5)).stride(1) == 1
    assert join_channels(torch.randn(2, 3, 4, 5, device="meta")).is_contiguous()
