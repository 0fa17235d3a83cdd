from functools import partial

import pytest
import torch

from gatedvision_kernels import gated_activation, gated_activation_reference
from gatedvision_kernels.gated_activation import ACTIVATIONS

# One channel and pixel; primes; a pixel and a channel over a block; channels alone; a video; and on a GPU layers of
# DeepFill v2.
SHAPES = [(1, 2, 1, 1), (3, 14, 5, 7), (2, 6, 41, 25), (3, 514), (5, 26), (2, 6, 3, 2, 5)]
SHAPES += [(16, 48, 256, 256), (16, 192, 64, 64), (1, 24, 512, 680)] * torch.cuda.is_available()
every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)


def in_order(x, channels_last):
    """Return the same map with channels last, or first, in memory."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else x.contiguous()


@every_activation
@pytest.mark.parametrize("with_bias", [True, False])
def test_reference_is_the_formula(activation, with_bias, make_inputs):
    x, bias = make_inputs({"x": (3, 14, 5, 7), "bias": (14,)}, torch.float64).values()
    z = x + bias[:, None, None] if with_bias else x
    value, gate = z[:, :7], z[:, 7:]
    below = {"elu": torch.exp(value) - 1, "relu": 0 * value, "leaky_relu": 0.2 * value, "identity": value}[activation]
    expected = torch.where(value > 0, value, below) / (1 + torch.exp(-gate))
    actual = gated_activation_reference(x, bias if with_bias else None, activation)
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-15)


@every_activation
def test_reference_gradients(activation, make_inputs):
    x, bias = (t.requires_grad_() for t in make_inputs({"x": (2, 4, 3), "bias": (4,)}, torch.float64).values())
    assert torch.autograd.gradcheck(gated_activation_reference, (x, bias, activation))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_agrees(shape, channels_last, dtype, make_inputs, assert_agrees):
    inputs = make_inputs({"x": shape, "bias": shape[1:2]}, dtype)
    inputs["x"] = in_order(inputs["x"], channels_last)
    assert_agrees(gated_activation, inputs, max(4e-6, 2 * torch.finfo(dtype).eps))


@every_activation
@pytest.mark.parametrize("with_bias", [True, False])
def test_every_activation_agrees(activation, with_bias, make_inputs, assert_agrees):
    inputs = make_inputs({"x": (3, 14, 5, 7), "bias": (14,)} if with_bias else {"x": (3, 14, 5, 7)})
    assert_agrees(partial(gated_activation, activation=activation), inputs, 4e-6)


@pytest.mark.parametrize("order", [(False, False), (True, True), (True, False), (False, True)], ids=str)
def test_memory_order_is_kept_whatever_that_of_the_gradient(order, make_inputs, device):
    x, seed = make_inputs({"x": (2, 6, 4, 5), "seed": (2, 3, 4, 5)}).values()
    x, seed = in_order(x, order[0]).requires_grad_(), in_order(seed, order[1])
    y, expected = gated_activation(x, backend="triton"), gated_activation_reference(x)
    (gradient,) = torch.autograd.grad(y, x, seed)
    (expected_gradient,) = torch.autograd.grad(expected, x, seed)
    torch.testing.assert_close(gradient, expected_gradient, rtol=2e-6, atol=2e-6)
    assert y.is_contiguous() != order[0] and gradient.stride() == x.stride()


def test_bias_keeps_its_dtype(make_inputs):
    x, bias = make_inputs({"x": (2, 6, 4), "bias": (6,)}).values()
    x, bias = x.bfloat16().requires_grad_(), bias.requires_grad_()
    y = gated_activation(x, bias, backend="triton")
    gradients = torch.autograd.grad(y.float().sum(), (x, bias))
    assert (y.dtype, gradients[0].dtype, gradients[1].dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")  # of the interpreter
@every_activation
def test_saturated_gates_stay_finite(activation, device):
    x = torch.tensor([[-1e4, 1e4, 1e4, 1e4, 1e4, -1e4]], device=device, requires_grad=True)
    y = gated_activation(x, activation=activation, backend="triton")
    (gradient,) = torch.autograd.grad(y.sum(), x)
    below = {"elu": -1.0, "relu": 0.0, "leaky_relu": -2e3, "identity": -1e4}[activation]
    slope = {"elu": 0.0, "relu": 0.0, "leaky_relu": 0.2, "identity": 1.0}[activation]
    torch.testing.assert_close(y, torch.tensor([[below, 1e4, 0.0]], device=device))
    torch.testing.assert_close(gradient, torch.tensor([[slope, 1.0, 0.0, 0.0, 0.0, 0.0]], device=device))


@pytest.mark.parametrize(
    "x, bias, options, message",
    [
        (torch.ones(2, 3), None, {}, r"must be even and not zero in number, got x \(2, 3\)"),
        (torch.ones(2, 0, 4), None, {}, r"got x \(2, 0, 4\)"),
        (torch.ones(4), None, {}, r"got x \(4,\)"),
        (torch.ones(2, 4).long(), None, {}, "must be floating point, got torch.int64"),
        (torch.ones(2, 4, 3), torch.ones(2), {}, r"one element per channel of x \(2, 4, 3\), got torch.float32 \(2,\)"),
        (torch.ones(2, 4), None, {"activation": "gelu"}, "one of elu, relu, leaky_relu, identity, got 'gelu'"),
    ],
)
def test_bad_input_is_named(x, bias, options, message):
    with pytest.raises(ValueError, match=message):
        gated_activation(x, bias, **options)
