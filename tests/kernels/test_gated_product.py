from functools import partial

import pytest
import torch

from gatedvision_kernels import gated_product, gated_product_reference

# One element; primes; one row over a block of rows; one channel over a block of channels; and on a GPU
# the maps of MogaNet-T and MogaNet-S.
SHAPES = [(1, 1), (3, 7, 13), (33, 64), (9, 257)] + [(128, 56, 56, 32), (128, 14, 14, 320)] * torch.cuda.is_available()
both_ways = pytest.mark.parametrize("double", [False, True], ids=["once", "twice"])


@both_ways
def test_reference_is_the_formula(double, make_inputs):
    gate, value = make_inputs({"gate": (3, 7, 13), "value": (3, 7, 13)}, torch.float64).values()
    expected = gate / (1 + torch.exp(-gate)), value / (1 + torch.exp(-value))
    if double:
        expected = [x / (1 + torch.exp(-x)) for x in expected]
    actual = gated_product_reference(gate, value, double)
    torch.testing.assert_close(actual, expected[0] * expected[1], rtol=1e-14, atol=1e-16)


@both_ways
def test_reference_gradients(double, make_inputs):
    gate, value = make_inputs({"gate": (2, 5), "value": (2, 5)}, torch.float64).values()
    inputs = (gate.requires_grad_(), value.requires_grad_(), double)
    assert torch.autograd.gradcheck(gated_product_reference, inputs)


@both_ways
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_agrees(shape, dtype, double, make_inputs, assert_agrees):
    assert_agrees(partial(gated_product, double=double), make_inputs({"gate": shape, "value": shape}, dtype))


@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")  # of the interpreter
@both_ways
def test_saturated_gates_stay_finite(double, device):
    gate = torch.tensor([[-1e4, 1e4, 1e4]], device=device, requires_grad=True)
    value = torch.tensor([[1e4, 1e4, -1e4]], device=device, requires_grad=True)
    y = gated_product(gate, value, double=double, backend="triton")
    gradients = torch.autograd.grad(y.sum(), (gate, value))
    assert y.tolist() == [[0.0, 1e8, 0.0]]
    assert [gradient.tolist() for gradient in gradients] == [[[0.0, 1e4, 0.0]], [[0.0, 1e4, 0.0]]]


@pytest.mark.parametrize(
    "gate, value, message",
    [
        (torch.ones(2, 3), torch.ones(3), r"one shape \[..., C\], C > 0; got \(2, 3\) and \(3,\)"),
        (torch.ones(2, 0), torch.ones(2, 0), r"C > 0; got \(2, 0\) and \(2, 0\)"),
        (torch.ones(()), torch.ones(()), r"got \(\) and \(\)"),
        (torch.ones(2, 3), torch.ones(2, 3).half(), "one floating dtype, got torch.float32 and torch.float16"),
        (torch.ones(2, 3).long(), torch.ones(2, 3).long(), "got torch.int64 and torch.int64"),
    ],
)
def test_bad_input_is_named(gate, value, message):
    with pytest.raises(ValueError, match=message):
        gated_product(gate, value)
