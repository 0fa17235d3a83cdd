import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from gatedvision_kernels import bias_gelu, bias_gelu_linear, bias_gelu_linear_reference, bias_gelu_reference

# One channel; primes; one row over a block of rows; one channel over a block of channels; and on a
# GPU the maps of a real batch.
FORMS = ("none", "tanh")
SHAPES = [(1, 1), (3, 7, 13), (65, 33), (9, 257)] + [(16, 56, 56, 256), (64, 14, 14, 1024)] * torch.cuda.is_available()
# As many experts as the first size says, of one row, of some, of more than a block, and those of a real layer.
EXPERT_SHAPES = [(5, 13), (3, 2, 5, 13), (2, 19, 257)] + [(8, 3328, 3072)] * torch.cuda.is_available()


def test_reference_is_the_formula(make_inputs):
    x, bias = make_inputs({"x": (3, 7, 13), "bias": (13,)}, torch.float64).values()
    share = torch.special.ndtr(x + bias)
    torch.testing.assert_close(bias_gelu_reference(x, bias), (x + bias) * share, rtol=1e-12, atol=1e-15)


def test_tanh_reference_is_the_formula(make_inputs):
    x, bias = make_inputs({"x": (3, 7, 13), "bias": (13,)}, torch.float64).values()
    u = x + bias
    expected = u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3))) / 2
    torch.testing.assert_close(bias_gelu_reference(x, bias, "tanh"), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("approximate", FORMS)
def test_reference_gradients(approximate, make_inputs):
    inputs = make_inputs({"x": (2, 6), "bias": (6,)}, torch.float64)
    leaves = [t.requires_grad_() for t in inputs.values()]
    assert torch.autograd.gradcheck(lambda x, bias: bias_gelu_reference(x, bias, approximate), leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_agrees(shape, dtype, make_inputs, assert_agrees):
    assert_agrees(bias_gelu, make_inputs({"x": shape, "bias": shape[-1:]}, dtype))


@pytest.mark.parametrize("shape", [(5, 13), (3, 2, 5, 13)], ids=str)
def test_reference_of_experts_is_expert_after_expert(shape, make_inputs):
    x, bias = make_inputs({"x": shape, "bias": (shape[0], shape[-1])}, torch.float64).values()
    expected = torch.stack([bias_gelu_reference(rows, own, "tanh") for rows, own in zip(x, bias, strict=True)])
    torch.testing.assert_close(bias_gelu_reference(x, bias, "tanh"), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", EXPERT_SHAPES, ids=str)
@pytest.mark.parametrize("approximate", FORMS)
def test_kernel_of_experts_agrees(approximate, shape, dtype, make_inputs, assert_agrees):
    inputs = make_inputs({"x": shape, "bias": (shape[0], shape[-1])}, dtype)
    assert_agrees(partial(bias_gelu, approximate=approximate), inputs)


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        lambda x: x[:1].expand_as(x),
        lambda x: x[:, :0],
    ],
    ids=["rows before experts", "channels before rows", "one expert's rows repeated", "no rows"],
)
def test_experts_in_any_layout(layout, make_inputs, assert_agrees):
    inputs = make_inputs({"x": (3, 5, 13), "bias": (3, 13)})
    assert_agrees(bias_gelu, inputs | {"x": layout(inputs["x"])})


def test_experts_compile_to_one_graph(make_inputs, assert_agrees):
    torch.compiler.reset()
    compiled = torch.compile(partial(bias_gelu, approximate="tanh"), fullgraph=True, backend="aot_eager")
    assert_agrees(compiled, make_inputs({"x": (3, 5, 13), "bias": (3, 13)}))


def test_biases_stay_wide_under_mixed_precision(make_inputs, device):
    x, bias = make_inputs({"x": (3, 5, 13), "bias": (3, 13)}).values()
    x, bias = x.bfloat16().requires_grad_(), bias.requires_grad_()
    for backend in ("triton", "reference"):
        y = bias_gelu(x, bias, backend=backend)
        gradients = torch.autograd.grad(y.sum(), (x, bias))
        assert [t.dtype for t in (y, *gradients)] == [torch.bfloat16, torch.bfloat16, torch.float32]


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


def test_kernel_with_linear_layer_takes_both_options(make_inputs, assert_agrees):
    inputs = make_inputs({"x": (3, 7, 13), "x_bias": (3, 13), "weight": (5, 13), "bias": (5,)})
    assert_agrees(partial(bias_gelu_linear, approximate="tanh"), inputs, 8e-6)


def test_only_the_input_is_kept(make_inputs):
    shapes = {"x": (64, 32), "x_bias": (32,), "weight": (8, 32), "bias": (8,)}
    inputs = [t.requires_grad_() for t in make_inputs(shapes).values()]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        bias_gelu_linear(*inputs, backend="triton")
    assert set(kept) <= {t.data_ptr() for t in inputs}


@pytest.mark.parametrize("approximate", FORMS)
def test_saturated_values_stay_finite(approximate, device):
    x = torch.tensor([[-1e4, -30.0, 0.0, 30.0, 1e4]], device=device, requires_grad=True)
    y = bias_gelu(x, torch.zeros(5, device=device), approximate=approximate, backend="triton")
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.tolist() == F.gelu(x).tolist() == [[0.0, 0.0, 0.0, 30.0, 1e4]]
    assert gradient.tolist() == [pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0], abs=1e-6)]


@pytest.mark.parametrize(
    "x, bias, message",
    [
        (torch.ones(()), torch.ones(()), r"x must be floating point \[..., D\] with D > 0, got torch.float32 \(\)"),
        (torch.ones(2, 0), torch.ones(0), r"D > 0, got torch.float32 \(2, 0\)"),
        (torch.ones(2, 4).long(), torch.ones(4), r"got torch.int64 \(2, 4\)"),
        (torch.ones(2, 4), torch.ones(3), r"bias .* channel of x \(2, 4\), or .* got torch.float32 \(3,\)"),
        (torch.ones(2, 3, 4), torch.ones(3, 4), r"each expert of x \[E, ..., D\], got torch.float32 \(3, 4\)"),
        (torch.ones(4), torch.ones(4, 4), r"got torch.float32 \(4, 4\)"),
        (torch.ones(0, 2, 4), torch.ones(0, 4), r"got torch.float32 \(0, 4\)"),
        (torch.ones(2, 4), torch.ones(4).long(), r"bias must be floating point .* got torch.int64 \(4,\)"),
    ],
)
def test_bad_input_is_named(x, bias, message):
    with pytest.raises(ValueError, match=message):
        bias_gelu(x, bias)


def test_unknown_form_is_named():
    for call, *rest in ((bias_gelu,), (bias_gelu_linear, torch.ones(3, 4))):
        with pytest.raises(ValueError, match="approximate must be 'none' or 'tanh', got 'sigmoid'"):
            call(torch.ones(2, 4), torch.ones(4), *rest, approximate="sigmoid")
