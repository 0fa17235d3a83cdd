import pytest
import torch
import torch.nn.functional as F

from gatedvision_kernels import add_layer_norm, add_layer_norm_reference, layer_norm, layer_norm_reference

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-6, torch.float16: 2**-10}
DTYPES = list(TOLERANCE)
# Two channels, of which a norm leaves the sign; primes; one row over a block of rows; more blocks than programs, one
# channel over a power of two; and on a GPU the maps of real batches.
SHAPES = [(1, 2), (3, 7, 13), (65, 33), (19, 513)] + [(16, 56, 56, 64), (64, 14, 14, 480)] * torch.cuda.is_available()


def sizes_of(shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    vectors = dict.fromkeys(("scale", "weight", "bias"), shape[-1:])
    return {"x": shape, "residual": shape, **vectors}


def test_reference_is_torchs_norm(make_inputs):
    x, residual, scale, weight, bias = make_inputs(sizes_of((3, 7, 13)), torch.float64).values()
    expected = F.layer_norm(x, (13,), weight, bias, eps=1e-3)
    torch.testing.assert_close(layer_norm_reference(x, weight, bias, 1e-3), expected, rtol=1e-14, atol=0)
    normed, total = add_layer_norm_reference(x, residual, scale, weight, bias, 1e-3)
    torch.testing.assert_close(total, residual + scale * x, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(normed, F.layer_norm(total, (13,), weight, bias, eps=1e-3), rtol=1e-14, atol=0)


def test_reference_gradients(make_inputs):
    x, residual, scale, weight, bias = (
        t.requires_grad_() for t in make_inputs(sizes_of((2, 5)), torch.float64).values()
    )
    assert torch.autograd.gradcheck(layer_norm_reference, (x, weight, bias))
    assert torch.autograd.gradcheck(add_layer_norm_reference, (x, residual, scale, weight, bias))


def test_a_row_without_variance_becomes_the_bias(device):
    x, weight, bias = torch.full((2, 5), 3.0, device=device), torch.ones(5, device=device), torch.ones(5, device=device)
    assert layer_norm(x, weight, bias, backend="triton").equal(torch.ones_like(x))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_agrees(shape, dtype, make_inputs, assert_agrees):
    inputs = make_inputs({"x": shape, "weight": shape[-1:], "bias": shape[-1:]}, dtype)
    assert_agrees(layer_norm, inputs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_with_residual_agrees(shape, dtype, make_inputs, assert_agrees):
    # The sum is rounded too, before it is normed, and the slopes depend on it.
    assert_agrees(add_layer_norm, make_inputs(sizes_of(shape), dtype), tolerance=2 * TOLERANCE[dtype])


@pytest.mark.parametrize("used", [0, 1], ids=["normed", "sum"])
def test_one_of_two_outputs_used(used, make_inputs):
    inputs = make_inputs(sizes_of((3, 13)))
    leaves = [t.requires_grad_() for t in inputs.values()]
    gradients = {}
    for backend in ("triton", "reference"):
        output = add_layer_norm(*leaves, backend=backend)[used]
        gradients[backend] = torch.autograd.grad(output.square().sum(), leaves, allow_unused=True)
    for name, actual, expected in zip(inputs, gradients["triton"], gradients["reference"], strict=True):
        torch.testing.assert_close(actual, expected, msg=lambda text, name=name: f"gradient of {name}: {text}")


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_dtypes_under_mixed_precision(backend, make_inputs):
    inputs = make_inputs(sizes_of((3, 13)))
    inputs["x"] = inputs["x"].bfloat16()
    leaves = {name: t.requires_grad_() for name, t in inputs.items()}
    normed, total = add_layer_norm(**leaves, backend=backend)
    assert (normed.dtype, total.dtype) == (torch.bfloat16, torch.float32)
    (normed.sum() + total.sum()).backward()
    assert {name: t.grad.dtype for name, t in leaves.items()} == {name: t.dtype for name, t in leaves.items()}


def test_sum_is_normed_as_rounded(make_inputs):
    x, residual, _, weight, bias = make_inputs(sizes_of((3, 13)), torch.float16).values()
    normed, total = add_layer_norm(x, residual, torch.ones_like(weight), weight, bias, backend="triton")
    assert total.equal(x + residual)
    assert normed.equal(layer_norm(total, weight, bias, backend="triton"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.ones(())}, r"x must be floating point \[..., D\] with D > 0, got torch.float32 \(\)"),
        ({"x": torch.ones(2, 0)}, r"D > 0, got torch.float32 \(2, 0\)"),
        ({"x": torch.ones(2, 3).long()}, r"got torch.int64 \(2, 3\)"),
        ({"weight": torch.ones(4)}, r"weight .* per channel of x \(2, 3\), got torch.float32 \(4,\)"),
        ({"bias": torch.ones(1, 3)}, r"bias .* got torch.float32 \(1, 3\)"),
        ({"scale": torch.ones(3).long()}, r"scale must be floating point .* got torch.int64 \(3,\)"),
        ({"residual": torch.ones(3)}, r"shape of x, \(2, 3\); got torch.float32 \(3,\)"),
        ({"residual": torch.ones(2, 3).long()}, "got torch.int64"),
    ],
)
def test_bad_input_is_named(change, message):
    inputs = {name: torch.ones(shape) for name, shape in sizes_of((2, 3)).items()}
    with pytest.raises(ValueError, match=message):
        add_layer_norm(**inputs | change)
