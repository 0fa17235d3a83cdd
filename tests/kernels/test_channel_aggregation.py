import math
from typing import Any

import pytest
import torch

from gatedvision_kernels import channel_aggregation, channel_aggregation_reference

# One element; primes; rows over a block of rows; more blocks than programs, one channel over a power of two;
# and on a GPU the maps of MogaNet-T, MogaNet-S and MogaNet-XL.
SHAPES = [(1, 1), (3, 7, 13), (65, 64), (3, 1025)]
SHAPES += [(128, 56, 56, 256), (128, 14, 14, 1280), (8, 14, 14, 1920), (8, 7, 7, 3840)] * torch.cuda.is_available()


def inputs_of(shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {"x": shape, "common_weight": shape[-1:], "common_bias": (1,), "scale": shape[-1:]}


def gelu(x: float) -> float:
    return x * (1 + math.erf(x / math.sqrt(2))) / 2


def test_reference_is_the_formula(make_inputs):
    x, weight, bias, scale = make_inputs(inputs_of((4, 5)), torch.float64).values()
    expected = []
    for row in x.tolist():
        h = [gelu(element) for element in row]
        common = gelu(sum(a * b for a, b in zip(h, weight.tolist(), strict=True)) + bias.item())
        expected.append([a + s * (a - common) for a, s in zip(h, scale.tolist(), strict=True)])
    actual = channel_aggregation_reference(x, weight, bias, scale)
    torch.testing.assert_close(
        actual, torch.tensor(expected, dtype=actual.dtype, device=actual.device), rtol=1e-13, atol=1e-14
    )


def test_reference_gradients(make_inputs):
    inputs = [t.requires_grad_() for t in make_inputs(inputs_of((3, 5)), torch.float64).values()]
    assert torch.autograd.gradcheck(channel_aggregation_reference, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_agrees(shape, dtype, make_inputs, assert_agrees):
    inputs = make_inputs(inputs_of(shape), dtype)
    # A combination of many channels as large as one, as trained weights keep it.
    inputs["common_weight"] *= shape[-1] ** -0.5
    assert_agrees(channel_aggregation, inputs)


def test_gelu_is_exact_to_float32(device):
    """Without scale the operator is GELU; its kernels compute the error function by a polynomial."""
    x = torch.linspace(-9, 9, 1801, device=device).unflatten(0, (-1, 1)).requires_grad_()
    zero = torch.zeros(1, device=device)
    y = channel_aggregation(x, zero, zero, zero, backend="triton")
    (slope,) = torch.autograd.grad(y.sum(), x)
    wide = x.detach().double().requires_grad_()
    expected = torch.nn.functional.gelu(wide)
    (expected_slope,) = torch.autograd.grad(expected.sum(), wide)
    assert (y - expected).abs().max() < 5e-7
    assert (slope - expected_slope).abs().max() < 5e-7


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # of the interpreter
def test_saturated_rows_stay_finite(device):
    x = torch.tensor([[-1e4, 1e4]], device=device, requires_grad=True)
    ones = torch.ones(2, device=device)
    y = channel_aggregation(x, ones, ones[:1], ones, backend="triton")
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.tolist() == [[-10001.0, 9999.0]]
    assert gradient.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scale": torch.ones(4)}, r"got \(3,\) and \(4,\) for x \(2, 3\)"),
        ({"common_weight": torch.ones(1, 3)}, r"got \(1, 3\) and \(3,\) for x \(2, 3\)"),
        ({"common_bias": torch.ones(3)}, r"common_bias must have shape \(1,\), got \(3,\)"),
        ({"x": torch.ones(2, 3).long()}, r"must be floating point, got \['torch.int64'"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str):
    inputs = {"x": torch.ones(2, 3), "common_weight": torch.ones(3), "common_bias": torch.ones(1)}
    inputs["scale"] = torch.ones(3)
    with pytest.raises(ValueError, match=message):
        channel_aggregation(**{**inputs, **change})
