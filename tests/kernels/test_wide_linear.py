"""Linear layer with sums in float32: as exact as on copies in float32, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from gatedvision_kernels import wide_linear

# Rows, channels and outputs: one of each; primes; blocks of all three exceeded; and on a GPU the router of B/16.
SHAPES = [(1, 1, 1), (37, 13, 7), (65, 150, 8), (70, 257, 67)] + [(25216, 768, 8)] * torch.cuda.is_available()
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_are_of_float32(shape, dtype, backend, make_inputs):
    num_rows, width, num_out = shape
    x, weight = make_inputs({"x": (num_rows, width), "weight": (num_out, width)}, dtype).values()
    y = wide_linear(x, weight, backend=backend)
    assert y.dtype == torch.float32
    # No more than sums in float32 in any order are off, of numbers that were not rounded before.
    size = x.double().abs() @ weight.double().abs().T
    assert ((y - F.linear(x.double(), weight.double())).abs() <= 2e-6 * size).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernels_agree(dtype, make_inputs, assert_agrees):
    # Gradients are rounded to the inputs' dtype; the interpreter rounds as torch does, in which the products are.
    tolerance = {torch.float32: 4e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    assert_agrees(wide_linear, make_inputs({"x": (3, 23, 13), "weight": (7, 13)}, dtype), tolerance)


@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize("wanted", ["x", "weight"])
def test_one_gradient_alone(wanted, backend, make_inputs):
    inputs = make_inputs({"x": (5, 13), "weight": (7, 13)}, torch.bfloat16)
    inputs[wanted].requires_grad_()
    wide_linear(**inputs, backend=backend).sum().backward()
    assert inputs[wanted].grad.dtype == torch.bfloat16


def test_counts_its_products():
    x, weight = torch.empty(6, 13, device="meta"), torch.empty(7, 13, device="meta")
    with FlopCounterMode(display=False) as counter:
        torch.ops.gatedvision.wide_linear(x, weight)
    assert counter.get_total_flops() == 2 * 6 * 13 * 7


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wide_linear(torch.ones(4, 0), torch.ones(2, 0)), r"x must be \[..., C\], C > 0, got \(4, 0\)"),
        (lambda: wide_linear(torch.ones(4, 3), torch.ones(2, 4)), r"weight must be \[O, 3\] with O > 0, got \(2, 4\)"),
        (lambda: wide_linear(torch.ones(4, 3), torch.ones(2, 3).int()), "weight must be floating point"),
        (
            lambda: wide_linear(torch.ones(4, 3).int(), torch.ones(2, 3)),
            "of one dtype, got torch.int32 and torch.float",
        ),
        (
            lambda: wide_linear(torch.ones(4, 3).half(), torch.ones(2, 3)),
            "of one dtype, got torch.float16 and torch.fl",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
