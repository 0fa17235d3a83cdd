"""Partial convolution, beside NVIDIA's and beside its definition."""

import pytest
import torch
from torch import Tensor

from gatedvision.layers import PartialConv2d
from tests.golden.golden import draw_input, find_records

(RECORD,) = (record for record in find_records("inpainting") if record.name == "related_ops")


def hole_rule_0(height: int, width: int) -> Tensor:
    """Return the record's hole, ``[1, 1, H, W]``."""
    y, x = torch.arange(height)[:, None], torch.arange(width)[None, :]
    rectangle = (height // 4 <= y) & (y < height // 4 + height // 3)
    rectangle = rectangle & (width // 3 <= x) & (x < width // 3 + width // 4)
    stroke = (y >= height // 2) & ((2 * (y * width - x * height)).abs() < 8 * (height + width))
    return (rectangle | stroke)[None, None].double()


def test_record() -> None:
    layer = PartialConv2d(4, 6, 3, stride=2, padding=1, dtype=torch.float64)
    weights = RECORD.weights()
    layer.load_state_dict({leaf: weights[f"pconv.{leaf}"] for leaf in ("weight", "bias")})
    y, mask = layer(draw_input(1, 4, 16, 20), 1 - hole_rule_0(16, 20))
    torch.testing.assert_close(y, RECORD.arrays()["pconv.y"], rtol=0, atol=1e-9)
    assert torch.equal(mask, RECORD.arrays()["pconv.mask"])


def test_record_of_a_mask_for_each_channel() -> None:
    layer = PartialConv2d(4, 6, 5, padding=2, multi_channel=True, bias=False, dtype=torch.float64)
    layer.load_state_dict({"weight": RECORD.weights()["pconv_mc.weight"]})
    y, mask = layer(draw_input(1, 4, 12, 12), draw_input(1, 4, 12, 12, seed=3) > 0.3)
    torch.testing.assert_close(y, RECORD.arrays()["pconv_mc.y"], rtol=0, atol=1e-9)
    assert torch.equal(mask, RECORD.arrays()["pconv_mc.mask"])


def test_unknown_pixels_do_not_matter_and_everything_known_is_a_convolution() -> None:
    torch.manual_seed(0)
    layer, x = PartialConv2d(3, 5, 3), torch.randn(2, 3, 8, 9)
    mask = (torch.rand(2, 1, 8, 9) > 0.85).float()
    y, new_mask = layer(x, mask)
    other, _ = layer(torch.where(mask > 0, x, torch.nan), mask)
    torch.testing.assert_close(y, other)
    assert (y[(new_mask == 0).expand_as(y)] == 0).all() and 0 < new_mask.mean() < 1
    torch.testing.assert_close(layer(x, torch.ones_like(mask))[0], torch.nn.Conv2d.forward(layer, x))


def test_16_bits_count_taps_exactly() -> None:
    torch.manual_seed(0)
    # 1,600 taps: beyond what bfloat16 counts.
    layer, x = PartialConv2d(64, 3, 5, padding=2, multi_channel=True, eps=1e-6), torch.randn(1, 64, 9, 9)
    mask = torch.rand(1, 64, 9, 9) > 0.5
    expected, expected_mask = layer(x, mask)
    with torch.autocast("cpu", torch.bfloat16):
        y, new_mask = layer(x, mask)
    torch.testing.assert_close(y.float(), expected, rtol=0.03, atol=0.03)
    assert torch.equal(new_mask, expected_mask)
    narrow, _ = layer.bfloat16()(x.bfloat16(), mask)
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), expected, rtol=0.03, atol=0.03)


def test_gradients() -> None:
    torch.manual_seed(0)
    layer = PartialConv2d(2, 3, 3, padding=1, dtype=torch.float64)
    x, mask = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True), torch.rand(1, 1, 5, 4) > 0.7
    assert torch.autograd.gradcheck(lambda x: layer(x, mask)[0], x)


def test_bad_mask_is_named() -> None:
    with pytest.raises(ValueError, match=r"mask must be \(2, 1, 8, 9\) for x \(2, 3, 8, 9\), got \(2, 3, 8, 9\)"):
        PartialConv2d(3, 5)(torch.ones(2, 3, 8, 9), torch.ones(2, 3, 8, 9))
