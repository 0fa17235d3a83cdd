import pytest
import torch

from gatedvision_kernels import swiglu, swiglu_reference

# One channel; primes; one row over a block of rows; one channel over a block of channels; and on a
# GPU the tokens of a real batch.
SHAPES = [(1, 2), (3, 7, 26), (65, 66), (17, 514)] + [(128, 196, 2048), (16, 196, 1408)] * torch.cuda.is_available()


def test_reference_is_the_formula(make_inputs):
    (x,) = make_inputs({"x": (3, 7, 26)}, torch.float64).values()
    gate, value = x[..., :13], x[..., 13:]
    torch.testing.assert_close(swiglu_reference(x), gate / (1 + torch.exp(-gate)) * value, rtol=1e-14, atol=0)


def test_reference_gradient(make_inputs):
    (x,) = make_inputs({"x": (2, 6)}, torch.float64).values()
    assert torch.autograd.gradcheck(swiglu_reference, x.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_agrees(shape, dtype, make_inputs, assert_agrees):
    assert_agrees(swiglu, make_inputs({"x": shape}, dtype))


@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")  # of the interpreter
def test_saturated_gates_stay_finite(device):
    x = torch.tensor([[-1e4, 1e4, 1.0, 1.0]], device=device, requires_grad=True)
    y = swiglu(x, backend="triton")
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.tolist() == [[0.0, 1e4]]
    assert gradient.tolist() == [[0.0, 1.0, 0.0, 1e4]]


@pytest.mark.parametrize(
    "x, message",
    [
        (torch.ones(2, 3), r"must be even and not empty, got x \(2, 3\)"),
        (torch.ones(2, 0), r"must be even and not empty, got x \(2, 0\)"),
        (torch.ones(()), r"must be even and not empty, got x \(\)"),
        (torch.ones(2, 4).long(), "must be floating point, got torch.int64"),
    ],
)
def test_bad_input_is_named(x, message):
    with pytest.raises(ValueError, match=message):
        swiglu(x)
