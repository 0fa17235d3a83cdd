"""Gated convolutions and their padding, beside plain formulas and what TensorFlow computed."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from gatedvision.layers import GatedConv2d, GatedUpsample2d, PaddedConv2d
from gatedvision.layers.gated_conv import same_padding
from tests.golden.golden import draw_input, find_records

(RECORD,) = (record for record in find_records("inpainting") if record.name == "gated_conv_op")


@pytest.mark.parametrize("name", RECORD.facts["kwargs"])
def test_record(name: str) -> None:
    case: dict[str, Any] = RECORD.facts["kwargs"][name]
    in_chans, dim = case["input_shape"][1], case["gated_out_channels"]
    options = {"kernel_size": case["kernel"], "stride": case["stride"], "dilation": case["dilation"]}
    if case["activation"] == "none, no gate":
        layer: Any = PaddedConv2d(in_chans, dim, **options, dtype=torch.float64)
    else:
        make = GatedUpsample2d if case["upsample_x2_nearest_first"] else GatedConv2d
        layer = make(in_chans, dim, **options, activation=case["activation"], dtype=torch.float64)
    weights = RECORD.weights()
    layer.load_state_dict({leaf: weights[f"{name}.conv.{leaf}"] for leaf in ("weight", "bias")})
    y = layer(draw_input(*case["input_shape"], seed=case["input_seed"]))
    torch.testing.assert_close(y, RECORD.arrays()[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("dilation", [1, 2, 16])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [1, 3, 4, 5])
def test_same_padding_gives_the_size_rounded_up(kernel_size: int, stride: int, dilation: int) -> None:
    for size in range(1, 12):
        before, after = same_padding(size, kernel_size, stride, dilation)
        reach = (kernel_size - 1) * dilation + 1
        count = -(-size // stride)
        # The last window ends where the padded axis does, unless the stride skips pixels anyway.
        assert before + size + after == max((count - 1) * stride + reach, size)
        assert 0 <= after - before <= 1


def naive(layer: PaddedConv2d, x: torch.Tensor) -> torch.Tensor:
    """Convolve pixel by pixel, with an index for every tap."""
    k, s, d = layer.kernel_size[0], layer.stride[0], layer.dilation[0]
    height, width = x.shape[2:]
    y = torch.zeros(len(x), layer.out_channels, -(-height // s), -(-width // s), dtype=x.dtype)

    def source(index: int, tap: int, size: int) -> int | None:
        before = same_padding(size, k, s, d)[0] if layer.pad_mode == "same" else d * (k - 1) // 2
        at = index * s - before + tap * d
        if layer.pad_mode == "reflect":
            return abs(at) if at < size else 2 * (size - 1) - at
        return at if 0 <= at < size else None

    for i in range(y.shape[2]):
        for j in range(y.shape[3]):
            for a in range(k):
                for b in range(k):
                    row, column = source(i, a, height), source(j, b, width)
                    if row is not None and column is not None:
                        y[:, :, i, j] += x[:, :, row, column] @ layer.weight[:, :, a, b].T
    return y + layer.bias[:, None, None]


@pytest.mark.parametrize("padding", ["same", "symmetric", "reflect"])
@pytest.mark.parametrize(("kernel_size", "stride", "dilation"), [(5, 1, 1), (3, 2, 1), (5, 2, 1), (3, 1, 3)])
def test_padding_tap_by_tap(padding: str, kernel_size: int, stride: int, dilation: int) -> None:
    torch.manual_seed(0)
    layer = PaddedConv2d(2, 3, kernel_size, stride, dilation, padding, dtype=torch.float64)
    # One side even, the other odd: each axis is padded by itself.
    x = torch.randn(2, 2, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(layer(x), naive(layer, x))


@pytest.mark.parametrize("activation", ["elu", "relu", "leaky_relu", "identity"])
def test_gate_is_the_second_half(activation: str) -> None:
    torch.manual_seed(0)
    layer = GatedConv2d(3, 4, activation=activation, dtype=torch.float64)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    value, gate = PaddedConv2d.forward(layer, x).chunk(2, 1)
    act = {"elu": F.elu, "relu": F.relu, "leaky_relu": lambda v: F.leaky_relu(v, 0.2), "identity": lambda v: v}
    torch.testing.assert_close(layer(x), act[activation](value) * gate.sigmoid())
    assert layer(x).shape == (2, 4, 5, 6)


def test_upsampling_repeats_pixels_first() -> None:
    torch.manual_seed(0)
    layer, x = GatedUpsample2d(3, 4), torch.randn(2, 3, 5, 4)
    repeated = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(layer(x), GatedConv2d.forward(layer, repeated), rtol=0, atol=0)


def test_channels_stay_last_in_memory() -> None:
    layer = GatedConv2d(3, 4, stride=2).to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 6, 8).to(memory_format=torch.channels_last)
    y = layer(x)
    torch.testing.assert_close(y, layer(x.contiguous()))


def test_autocast_keeps_16_bits() -> None:
    layer, x = GatedConv2d(3, 4), torch.randn(2, 3, 6, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(t.grad is not None and t.grad.dtype == torch.float32 for t in (x, *layer.parameters()))
    torch.testing.assert_close(y.float(), layer(x), rtol=0.03, atol=0.02)


def test_unknown_padding() -> None:
    with pytest.raises(ValueError, match="one of same, symmetric, reflect, got 'valid'"):
        GatedConv2d(3, 4, padding="valid")
