"""The global filter against sums over pixels and frequencies, and its kernels against that."""

import math

import pytest
import torch
from torch import Tensor

from gatedvision_kernels import filter_spectrum, filter_spectrum_reference
from gatedvision_kernels.filter_spectrum import MAX_PIXELS

ON_GPU = torch.cuda.is_available()
# Four roundings meet, those of cosines and sines (twice), spectrum and output, where other operators have two: this is
# 2.5 times their tolerance. The same products in torch, rounded to nearest, were off by up to 1.9 times theirs in
# bfloat16 and 1.7 times in float16, among 1.5 million elements; in the mean square by 2.3 times a single rounding.
TOLERANCE = {torch.bfloat16: 5 * 2**-8, torch.float16: 5 * 2**-11}
# Odd and even sides, one pixel, one row, one column.
SIZES = [(1, 1), (1, 4), (1, 5), (4, 1), (2, 2), (3, 4), (6, 5), (7, 7)]
# Images and channels fill no block; HorNet's maps; the largest.
SHAPES = [(3, 14, 14, 33), (5, 7, 7, 40), (1, 5, 3, 7), (2, 16, 16, 5), (3, 1, 1, 1), (2, 1, 6, 3), (2, 4, 1, 3)]
SHAPES += [(2, 1, MAX_PIXELS, 3), (2, MAX_PIXELS, 1, 3)]
SHAPES += [(33, 14, 14, 240), (9, 7, 7, 496)] * ON_GPU


def shapes_of(batch: int, height: int, width: int, channels: int) -> dict[str, tuple[int, ...]]:
    return {"x": (batch, height, width, channels), "weight": (channels, height, width // 2 + 1, 2)}


def angles(height: int, width: int) -> Tensor:
    """Return ``2 pi (u h / H + v w / W)`` as ``[u, v, h, w]``."""
    down = torch.outer(torch.arange(height), torch.arange(height)).double() / height
    right = torch.outer(torch.arange(width // 2 + 1), torch.arange(width)).double() / width
    return 2 * math.pi * (down[:, None, :, None] + right[None, :, None, :])


def filter_by_sums(x: Tensor, weight: Tensor) -> Tensor:
    height, width = x.shape[1:3]
    cos, sin = angles(height, width).cos(), angles(height, width).sin()
    real, imag = torch.einsum("uvhw,bhwc->buvc", cos, x), -torch.einsum("uvhw,bhwc->buvc", sin, x)
    k_real, k_imag = weight.permute(3, 1, 2, 0)
    real, imag = real * k_real - imag * k_imag, real * k_imag + imag * k_real
    y = torch.zeros_like(x)
    for v in range(width // 2 + 1):
        # What is its own conjugate stands for itself alone.
        count = 1 if v == 0 or 2 * v == width else 2
        for wave, part in ((cos, real), (-sin, imag)):
            y += count * torch.einsum("uhw,buc->bhwc", wave[:, v], part[:, :, v])
    return y / (height * width)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_reference_is_the_formula(size, make_inputs):
    x, weight = make_inputs(shapes_of(2, *size, 3), torch.float64).values()
    torch.testing.assert_close(
        filter_spectrum_reference(x, weight).cpu(), filter_by_sums(x.cpu(), weight.cpu()), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("size", [(3, 4), (2, 3), (1, 1)], ids=str)
def test_reference_gradients(size, make_inputs):
    inputs = [x.requires_grad_() for x in make_inputs(shapes_of(2, *size, 2), torch.float64).values()]
    assert torch.autograd.gradcheck(filter_spectrum_reference, inputs)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_agree(shape, dtype, make_inputs, assert_agrees):
    assert_agrees(filter_spectrum, make_inputs(shapes_of(*shape), dtype), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_half_of_a_wider_map(dtype, make_inputs, assert_agrees):
    x, weight = make_inputs({"x": (3, 5, 4, 14), "weight": (7, 5, 3, 2)}, dtype).values()
    inputs = {"x": x.chunk(2, dim=-1)[1], "weight": weight}
    assert_agrees(filter_spectrum, inputs, TOLERANCE[dtype])


def test_weights_keep_their_dtype(make_inputs):
    x, weight = make_inputs(shapes_of(2, 4, 4, 5)).values()
    x, weight = x.bfloat16().requires_grad_(), weight.requires_grad_()
    y = filter_spectrum(x, weight, backend="triton")
    gradients = torch.autograd.grad(y.float().sum(), [x, weight])
    assert [y.dtype, *(grad.dtype for grad in gradients)] == [torch.bfloat16, torch.bfloat16, torch.float32]


def test_weights_in_any_memory_order(make_inputs):
    x, weight = make_inputs(shapes_of(2, 4, 4, 5), torch.float16).values()
    expected = filter_spectrum(x, weight, backend="triton")
    actual = filter_spectrum(x, weight.contiguous(memory_format=torch.channels_last), backend="triton")
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize("wanted", ["x", "weight"])
def test_one_gradient_alone(wanted, backend, make_inputs):
    inputs = make_inputs(shapes_of(2, 4, 5, 3), torch.float16)
    both = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    filter_spectrum(**both, backend=backend).sum().backward()
    inputs[wanted].requires_grad_()
    filter_spectrum(**inputs, backend=backend).sum().backward()
    assert torch.equal(inputs[wanted].grad, both[wanted].grad)


def test_sums_do_not_overflow(device):
    """The spectrum of a map that is all alike is one number, as many times as large as the side is long."""
    x = torch.full((1, 16, 16, 1), 2000.0, dtype=torch.float16, device=device)
    weight = torch.zeros(1, 16, 9, 2, device=device)
    weight[..., 0] = 1
    torch.testing.assert_close(filter_spectrum(x, weight, backend="triton"), x, rtol=2e-3, atol=1)


def test_keeps_only_its_inputs(make_inputs):
    x, weight = (t.requires_grad_() for t in make_inputs(shapes_of(2, 4, 4, 5), torch.float16).values())
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        filter_spectrum(x, weight, backend="triton")
    assert sorted(kept) == sorted([x.numel(), weight.numel()])


@pytest.mark.parametrize(
    "x, got",
    [
        (torch.ones(1, 4, 4, 3), "torch.float32 of 4 x 4"),
        (torch.ones(1, 17, 16, 3).half(), "torch.float16 of 17 x 16"),
    ],
)
def test_what_kernels_leave_to_the_reference(x, got, device):
    x, weight = x.to(device), torch.ones(3, x.shape[1], x.shape[2] // 2 + 1, 2, device=device)
    message = f"backend='triton' cannot run: x must be bfloat16 or float16 maps of up to 256 pixels, got {got}"
    with pytest.raises(ValueError, match=message):
        filter_spectrum(x, weight, backend="triton")
    assert torch.equal(filter_spectrum(x, weight), filter_spectrum_reference(x, weight))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.ones(4, 4, 3)}, r"x must be .* \[B, H, W, C\] .* got torch.float32 \[4, 4, 3\]"),
        ({"x": torch.ones(1, 4, 0, 3)}, r"at least one pixel and channel, got torch.float32 \[1, 4, 0, 3\]"),
        ({"x": torch.ones(1, 4, 4, 3).int()}, "x must be floating point .* got torch.int32"),
        (
            {"weight": torch.ones(3, 4, 4, 2)},
            r"= \[3, 4, 3, 2\] beside x \[1, 4, 4, 3\], got torch.float32 \[3, 4, 4, 2\]",
        ),
        ({"weight": torch.ones(2, 4, 3, 2)}, r"= \[3, 4, 3, 2\] .* got torch.float32 \[2, 4, 3, 2\]"),
        ({"weight": torch.ones(3, 4, 3, 2).int()}, "weight must be floating point .* got torch.int32"),
    ],
)
def test_wrong_arguments_name_the_values(changes, message):
    arguments = {"x": torch.ones(1, 4, 4, 3), "weight": torch.ones(3, 4, 3, 2)} | changes
    with pytest.raises(ValueError, match=message):
        filter_spectrum(**arguments)


def test_compiled_gradients_agree(make_inputs, assert_agrees):
    torch.compiler.reset()
    inputs = make_inputs(shapes_of(2, 4, 5, 3), torch.bfloat16)
    assert_agrees(
        torch.compile(filter_spectrum, fullgraph=True, backend="aot_eager"), inputs, TOLERANCE[torch.bfloat16]
    )
