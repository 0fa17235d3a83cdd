import pytest
import torch
import torch.nn.functional as F

from gatedvision_kernels import bias_gelu, bias_gelu_linear, bias_gelu_linear_reference, bias_gelu_reference

# One channel; primes; one row over a block of rows; one channel over a block of channels; and on a
# GPU the maps of a real batch.
SHAPES = [(1, 1), (3, 7, 13), (65, 33), (9, 257)] + [(16, 56, 56, 256), (64, 14, 14, 1024)] * torch.cuda.is_available()


def test_reference_is_the_formula(make_inputs):
    x, bias = make_inputs({"x": (3, 7, 13), "bias": (13,)}, torch.float64).values()
    share = torch.special.ndtr(x + bias)
    torch.testing.assert_close(bias_gelu_reference(x, bias), (x + bias) * share, rtol=1e-12, atol=1e-15)


def test_reference_gradients(make_inputs):
    inputs = make_inputs({"x": (2, 6), "bias": (6,)}, torch.float64)
    assert torch.autograd.gradcheck(bias_gelu_reference, [t.requires_grad_() for t in inputs.values()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_agrees(shape, dtype, make_inputs, assert_agrees):
    assert_agrees(bias_gelu, make_inputs({"x": shape, "bias": shape[-1:]}, dtype))


def test_linear_reference_is_the_formula(make_inputs):
    shapes = {"x": (3, 7), "x_bias": (7,), "weight": (5, 7), "bias": (5,)}
    x, x_bias, weight, bias = make_inputs(shapes, torch.float64).values()
    expected = F.gelu(x + x_bias) @ weight.T + bias
    torch.testing.assert_close(bias_gelu_linear_reference(x, x_bias, weight, bias), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(3, 7, 13), (65, 257)], ids=str)
def test_kernel_with_linear_layer_agrees(shape, dtype, make_inputs, assert_agrees):
    inputs = make_inputs({"x": shape, "x_bias": shape[-1:], "weight": (5, shape[-1]), "bias": (5,)}, dtype)
    # Sums over so many channels, and for the weight over the rows, of terms that are rounded twice.
    tolerance = {torch.float32: 2e-6, torch.float16: 2**-10, torch.bfloat16: 2**-6}[dtype] * 4
    assert_agrees(bias_gelu_linear, inputs, tolerance)


def test_only_the_input_is_kept(make_inputs):
    shapes = {"x": (64, 32), "x_bias": (32,), "weight": (8, 32), "bias": (8,)}
    inputs = [t.requires_grad_() for t in make_inputs(shapes).values()]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        bias_gelu_linear(*inputs, backend="triton")
    assert set(kept) <= {t.data_ptr() for t in inputs}


def test_saturated_values_stay_finite(device):
    x = torch.tensor([[-1e4, -30.0, 0.0, 30.0, 1e4]], device=device, requires_grad=True)
    y = bias_gelu(x, torch.zeros(5, device=device), backend="triton")
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.tolist() == F.gelu(x).tolist() == [[0.0, 0.0, 0.0, 30.0, 1e4]]
    assert gradient.tolist() == [pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0], abs=1e-6)]


@pytest.mark.parametrize(
    "x, bias, message",
    [
        (torch.ones(()), torch.ones(()), r"x must be floating point \[..., D\] with D > 0, got torch.float32 \(\)"),
        (torch.ones(2, 0), torch.ones(0), r"D > 0, got torch.float32 \(2, 0\)"),
        (torch.ones(2, 4).long(), torch.ones(4), r"got torch.int64 \(2, 4\)"),
        (torch.ones(2, 4), torch.ones(3), r"bias .* channel of x \(2, 4\), got torch.float32 \(3,\)"),
        (torch.ones(2, 4), torch.ones(4).long(), r"bias must be floating point .* got torch.int64 \(4,\)"),
    ],
)
def test_bad_input_is_named(x, bias, message):
    with pytest.raises(ValueError, match=message):
        bias_gelu(x, bias)
