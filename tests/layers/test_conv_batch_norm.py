"""Convolution, batch norm and ReLU over two or three dimensions."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
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


def random_block(**kwargs: Any) -> ConvBatchNorm:
    """Return a block in eval mode whose statistics and parameters are not those it starts from."""
    torch.manual_seed(0)
    block = ConvBatchNorm(2, 4, relu=False, dtype=torch.float64, **kwargs).eval()
    with torch.no_grad():
        for name, value in block.state_dict().items():
            if value.is_floating_point():
                value.uniform_(0.5, 1.5) if name.endswith("running_var") else value.normal_()
    return block


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_folded_block_is_one_convolution(spatial_dims: int) -> None:
    block = random_block(spatial_dims=spatial_dims)
    x = torch.randn(2, 2, *(5, 4, 3)[:spatial_dims], dtype=torch.float64)
    folded = block.fold()
    assert folded is not None
    conv = F.conv2d if spatial_dims == 2 else F.conv3d
    apart = nn.Sequential.forward(block, x)
    torch.testing.assert_close(conv(x, *folded, padding=1), apart)
    torch.testing.assert_close(block(x), apart)
    gradients = torch.autograd.grad([t.sum() for t in folded], list(block.parameters()))
    assert len(gradients) == 4 and all(bool(g.abs().min() > 0) for g in gradients)
    narrow = block.bfloat16().fold()
    assert narrow is not None and all(t.dtype == torch.float32 for t in narrow)


def test_evaluation_on_a_cpu_is_one_convolution_in_every_type(monkeypatch: pytest.MonkeyPatch) -> None:
    block = random_block(drop_rate=0.5).append(nn.ReLU())
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    expected = nn.Sequential.forward(block, x)
    monkeypatch.setattr(nn.BatchNorm2d, "forward", None)
    torch.testing.assert_close(block(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = block.float()(x.float())
    narrow = block.bfloat16()(x.bfloat16())
    for actual in (mixed, narrow):
        assert actual.dtype == torch.bfloat16
        torch.testing.assert_close(actual.double(), expected, rtol=0.05, atol=0.1)


def test_hooks_of_the_parts_are_called() -> None:
    block, seen = random_block(), []
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    expected = block(x)
    block.norm.register_forward_hook(lambda module, inputs, y: seen.append(y))
    torch.testing.assert_close(block(x), expected)
    assert block.fold() is None and torch.equal(seen[0], block(x))


def test_what_cannot_be_folded() -> None:
    assert random_block().train().fold() is None and random_block(norm=False).fold() is None
    for name, part in (
        ("norm", nn.BatchNorm2d(4, track_running_stats=False)),
        ("norm", nn.BatchNorm2d(4, affine=False)),
        ("norm", nn.InstanceNorm2d(4)),
        ("conv", nn.Identity()),
    ):
        block = random_block()
        setattr(block, name, part.eval())
        assert block.fold() is None


@pytest.mark.parametrize(("kernel_size", "stride"), [(2, 2), (3, 2), (4, 2), (5, 2), (3, 1), (5, 3), ((4, 1), (2, 1))])
def test_transposed_convolutions_enlarge_exactly(kernel_size: int, stride: int) -> None:
    conv = make_transposed_conv(2, 3, kernel_size, stride)
    steps = (stride, stride) if isinstance(stride, int) else stride
    assert conv(torch.randn(1, 2, 4, 5)).shape == (1, 3, 4 * steps[0], 5 * steps[1])
