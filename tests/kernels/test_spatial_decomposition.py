import pytest
import torch
import torch.nn.functional as F

from gatedvision_kernels import spatial_decomposition, spatial_decomposition_reference

# One element; fewer pixels than shares; primes; more pixels than a block of rows in each share, one channel over a
# block of channels; and on a GPU the maps of MogaNet-T and MogaNet-S.
SHAPES = [(1, 1, 1, 1), (2, 1, 3, 5), (3, 7, 5, 13), (1, 6, 13, 257)]
SHAPES += [(128, 56, 56, 32), (128, 14, 14, 320), (128, 7, 7, 512)] * torch.cuda.is_available()


def test_reference_is_the_formula(make_inputs):
    x, scale = make_inputs({"x": (2, 3, 4, 5), "scale": (5,)}, torch.float64).values()
    expected = torch.empty_like(x)
    for image in range(2):
        for channel in range(5):
            plane = x[image, ..., channel]
            plane = plane + scale[channel] * (plane - plane.sum() / 12)
            expected[image, ..., channel] = plane / (1 + torch.exp(-plane))
    torch.testing.assert_close(spatial_decomposition_reference(x, scale), expected, rtol=1e-13, atol=1e-14)


def test_reference_gradients(make_inputs):
    x, scale = make_inputs({"x": (2, 2, 3, 2), "scale": (2,)}, torch.float64).values()
    assert torch.autograd.gradcheck(spatial_decomposition_reference, (x.requires_grad_(), scale.requires_grad_()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_agrees(shape, dtype, make_inputs, assert_agrees):
    assert_agrees(spatial_decomposition, make_inputs({"x": shape, "scale": shape[-1:]}, dtype))


def test_images_do_not_see_each_other(make_inputs):
    x, scale = make_inputs({"x": (3, 5, 4, 6), "scale": (6,)}).values()
    together = spatial_decomposition(x, scale, backend="triton")
    assert together[1:2].equal(spatial_decomposition(x[1:2], scale, backend="triton"))


def test_an_even_map_is_only_activated(device):
    x = torch.full((2, 3, 5, 4), 0.75, device=device)
    y = spatial_decomposition(x, torch.full((4,), 50.0, device=device), backend="triton")
    torch.testing.assert_close(y, F.silu(x))


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_dtypes_under_mixed_precision(backend, make_inputs):
    x, scale = make_inputs({"x": (2, 2, 3, 5), "scale": (5,)}).values()
    x, scale = x.bfloat16().requires_grad_(), scale.requires_grad_()
    y = spatial_decomposition(x, scale, backend=backend)
    gradients = torch.autograd.grad(y.sum(), (x, scale))
    assert [t.dtype for t in (y, *gradients)] == [torch.bfloat16, torch.bfloat16, torch.float32]


@pytest.mark.parametrize(
    "x, scale, message",
    [
        (torch.ones(2, 3, 4), torch.ones(4), r"x must be \[B, H, W, C\] .*, got \[2, 3, 4\]"),
        (torch.ones(2, 0, 3, 4), torch.ones(4), r"at least one pixel and channel, got \[2, 0, 3, 4\]"),
        (torch.ones(2, 3, 3, 4), torch.ones(3), r"of C = 4, got \[3\]"),
        (torch.ones(2, 3, 3, 4), torch.ones(4).long(), "got torch.float32 and torch.int64"),
    ],
)
def test_bad_input_is_named(x, scale, message):
    with pytest.raises(ValueError, match=message):
        spatial_decomposition(x, scale)
