"""Temporal shift, fixed and learned, and the gated convolution behind it."""

import pytest
import torch
import torch.nn.functional as F

from gatedvision.layers import GatedTemporalShiftConv2d, TemporalShift, temporal_shift
from tests.golden.golden import draw_input, find_records

(RECORD,) = (record for record in find_records("inpainting") if record.name == "related_ops")


def test_record() -> None:
    x = draw_input(1, 5, 8, 4, 6)
    expected = RECORD.arrays()["tsm.y"]
    torch.testing.assert_close(temporal_shift(x), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(TemporalShift(8, dtype=torch.float64)(x), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("dim", [1, 4, 7])
def test_learned_shift_begins_as_the_fixed_one(dim: int, frames: int) -> None:
    x = torch.randn(2, frames, dim, 3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(TemporalShift(dim)(x), temporal_shift(x))


def test_learned_shift_is_a_convolution_over_time() -> None:
    torch.manual_seed(0)
    layer, x = TemporalShift(6, dtype=torch.float64), torch.randn(2, 5, 6, 3, 4, dtype=torch.float64)
    torch.nn.init.normal_(layer.weight)
    series = x.permute(0, 3, 4, 2, 1).flatten(0, 2)
    expected = F.conv1d(series, layer.weight[:, None], padding=1, groups=6).unflatten(0, (2, 3, 4))
    torch.testing.assert_close(layer(x), expected.permute(0, 4, 3, 1, 2))
    layer.reset_parameters()
    assert torch.equal(layer(x), temporal_shift(x))


@pytest.mark.parametrize("learnable", [True, False])
def test_only_values_are_shifted(learnable: bool) -> None:
    torch.manual_seed(0)
    layer = GatedTemporalShiftConv2d(8, 5, stride=2, learnable=learnable)
    x = torch.randn(2, 3, 8, 6, 7)
    shifted = temporal_shift(x)
    for sample in range(2):
        for frame in range(3):
            value = F.leaky_relu(layer.conv_value(shifted[sample, frame][None]), 0.2)
            expected = value * layer.conv_gate(x[sample, frame][None]).sigmoid()
            torch.testing.assert_close(layer(x)[sample, frame], expected[0])
    layer(x).square().sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert ("shift.weight" in dict(layer.named_parameters())) == learnable
