import pytest
import torch
import torch.nn.functional as F

from gatedvision_kernels import add_rms_norm, add_rms_norm_reference, rms_norm, rms_norm_reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# One element; primes; one row over a block of rows; more blocks than programs, one channel over a
# power of two; and on a GPU the tokens of a real batch.
SHAPES = [(1, 1), (3, 7, 13), (65, 33), (19, 513)] + [(128, 196, 384)] * torch.cuda.is_available()


def test_reference_is_torchs_norm(make_inputs):
    x, weight = make_inputs({"x": (3, 7, 13), "weight": (13,)}, torch.float64).values()
    expected = F.rms_norm(x, (13,), weight, eps=1e-3)
    torch.testing.assert_close(rms_norm_reference(x, weight, 1e-3), expected, rtol=1e-14, atol=0)


def test_reference_gradients(make_inputs):
    inputs = make_inputs({"x": (2, 5), "residual": (2, 5), "weight": (5,)}, torch.float64)
    x, residual, weight = (t.requires_grad_() for t in inputs.values())
    assert torch.autograd.gradcheck(rms_norm_reference, (x, weight))
    assert torch.autograd.gradcheck(add_rms_norm_reference, (x, residual, weight))


def test_a_zero_row_stays_zero(device):
    x, weight = torch.zeros(2, 4, device=device), torch.ones(4, device=device)
    assert rms_norm(x, weight, backend="triton").equal(x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_agrees(shape, dtype, make_inputs, assert_agrees):
    assert_agrees(rms_norm, make_inputs({"x": shape, "weight": shape[-1:]}, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_with_residual_agrees(shape, dtype, make_inputs, assert_agrees):
    assert_agrees(add_rms_norm, make_inputs({"x": shape, "residual": shape, "weight": shape[-1:]}, dtype))


@pytest.mark.parametrize("used", [0, 1], ids=["normed", "sum"])
def test_one_of_two_outputs_used(used, make_inputs):
    inputs = make_inputs({"x": (3, 13), "residual": (3, 13), "weight": (13,)})
    leaves = [t.requires_grad_() for t in inputs.values()]
    gradients = {}
    for backend in ("triton", "reference"):
        output = add_rms_norm(*leaves, backend=backend)[used]
        gradients[backend] = torch.autograd.grad(output.square().sum(), leaves, allow_unused=True)
    for name, actual, expected in zip(inputs, gradients["triton"], gradients["reference"], strict=True):
        torch.testing.assert_close(actual, expected, msg=lambda text, name=name: f"gradient of {name}: {text}")


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_dtypes_under_mixed_precision(backend, make_inputs):
    inputs = make_inputs({"x": (3, 13), "residual": (3, 13), "weight": (13,)})
    x = inputs["x"].bfloat16().requires_grad_()
    residual, weight = inputs["residual"].requires_grad_(), inputs["weight"].requires_grad_()
    normed, total = add_rms_norm(x, residual, weight, backend=backend)
    assert (normed.dtype, total.dtype) == (torch.bfloat16, torch.float32)
    (normed.sum() + total.sum()).backward()
    assert x.grad is not None and residual.grad is not None
    assert x.grad.equal(residual.grad.bfloat16())


def test_sum_is_normed_as_rounded(make_inputs):
    x, residual, weight = make_inputs({"x": (3, 13), "residual": (3, 13), "weight": (13,)}, torch.float16).values()
    normed, total = add_rms_norm(x, residual, weight, backend="triton")
    assert total.equal(x + residual)
    assert normed.equal(rms_norm(total, weight, backend="triton"))


@pytest.mark.parametrize(
    "x, residual, weight, message",
    [
        (torch.ones(2, 3), torch.ones(2, 3), torch.ones(4), r"got weight \(4,\) for x \(2, 3\)"),
        (torch.ones(2, 3), torch.ones(2, 3), torch.ones(1, 3), r"got weight \(1, 3\) for x \(2, 3\)"),
        (torch.ones(2, 0), torch.ones(2, 0), torch.ones(0), r"D > 0; got weight \(0,\)"),
        (torch.ones(()), torch.ones(()), torch.ones(()), r"got weight \(\) for x \(\)"),
        (torch.ones(2, 3).long(), torch.ones(2, 3), torch.ones(3), "got torch.int64 and torch.float32"),
        (torch.ones(2, 3), torch.ones(3), torch.ones(3), r"shape of x, \(2, 3\); got torch.float32 \(3,\)"),
        (torch.ones(2, 3), torch.ones(2, 3).long(), torch.ones(3), "got torch.int64"),
    ],
)
def test_bad_input_is_named(x, residual, weight, message):
    with pytest.raises(ValueError, match=message):
        add_rms_norm(x, residual, weight)
