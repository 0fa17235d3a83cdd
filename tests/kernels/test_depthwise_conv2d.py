import pytest
import torch
import torch.nn.functional as F

from gatedvision_kernels import depthwise_conv2d, depthwise_conv2d_reference
from gatedvision_kernels.depthwise_conv2d._strips import tile_of
from gatedvision_kernels.depthwise_conv2d.convolve import _convolve_kernel, _cut

# Batch, height, width, channels, side of the kernel, dilation.
CASES = {
    "one element": (1, 1, 1, 1, 3, 1),
    "narrower than the kernel": (2, 3, 2, 12, 7, 1),
    "full strips": (1, 4, 16, 20, 7, 1),
    "a strip cut off": (1, 3, 17, 12, 5, 1),
    "slabs of three rows": (1, 9, 3, 12, 5, 1),
    "more strips than a program takes": (9, 2, 9, 12, 3, 1),
    "rows and columns of uneven phases": (1, 7, 5, 40, 3, 3),
    "several strips of a phase": (1, 3, 20, 12, 5, 2),
    "three phases": (1, 4, 7, 12, 7, 3),
    "a halo cut off": (1, 1, 85, 12, 7, 2),
    "fitted: strips of 7": (1, 14, 14, 12, 5, 1),
    "fitted: strips of 5, one cut off": (1, 9, 9, 12, 3, 1),
    "fitted: uneven phases": (1, 13, 13, 12, 7, 3),
    "dilation beyond the map": (1, 2, 3, 33, 5, 4),
}
# Maps of HorNet-T and MogaNet-T in front of each kernel that they have.
REAL = {
    "HorNet, stage 1": (8, 56, 56, 96, 7, 1),
    "HorNet, stage 2": (8, 28, 28, 224, 7, 1),
    "HorNet, stage 3": (8, 14, 14, 480, 7, 1),
    "HorNet, stage 4": (8, 7, 7, 992, 7, 1),
    "MogaNet, middle order": (8, 56, 56, 12, 5, 2),
    "MogaNet, high order": (8, 14, 14, 64, 7, 3),
    "MogaNet, feed-forward": (8, 28, 28, 512, 3, 1),
}


def shapes_of(case: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    *shape, size, _ = case
    return {"x": tuple(shape), "weight": (shape[-1], 1, size, size), "bias": (shape[-1],)}


def with_dilation(dilation: int):
    return lambda backend, **inputs: depthwise_conv2d(**inputs, dilation=dilation, backend=backend)


@pytest.mark.parametrize(
    "case", [(2, 4, 5, 3, 3, 1), (1, 3, 2, 3, 7, 1), (2, 5, 7, 3, 5, 2), (1, 4, 3, 2, 3, 3)], ids=str
)
def test_reference_is_the_formula(case, make_inputs):
    x, weight, bias = make_inputs(shapes_of(case), torch.float64).values()
    (_, height, width, _, size, dilation), reach = case, case[4] // 2 * case[5]
    padded = F.pad(x, (0, 0, reach, reach, reach, reach))
    expected = bias.expand_as(x).clone()
    for i in range(size):
        for j in range(size):
            rows, columns = slice(i * dilation, i * dilation + height), slice(j * dilation, j * dilation + width)
            expected += weight[:, 0, i, j] * padded[:, rows, columns]
    actual = depthwise_conv2d_reference(x, weight, bias, dilation)
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-13)
    assert actual.is_contiguous()


def test_reference_gradients(make_inputs):
    leaves = [t.requires_grad_() for t in make_inputs(shapes_of((1, 3, 4, 2, 3, 2)), torch.float64).values()]
    assert torch.autograd.gradcheck(lambda *x: depthwise_conv2d_reference(*x, 2), leaves)


@pytest.mark.parametrize("case", CASES)
def test_kernels_agree(case, make_inputs, assert_agrees):
    assert_agrees(with_dilation(CASES[case][-1]), make_inputs(shapes_of(CASES[case])))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_kernels_agree_in_half_precision(dtype, make_inputs, assert_agrees):
    # The numbers are the same for the definition, so that of all errors only the last rounding is as coarse.
    assert_agrees(depthwise_conv2d, make_inputs(shapes_of((1, 3, 9, 12, 5, 1)), dtype))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="too large for Triton's interpreter")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", REAL)
def test_kernels_agree_on_real_maps(case, dtype, make_inputs, assert_agrees):
    # A thread sums up to a few hundred products; the error of a sum grows with the square root of their number.
    tolerance = 4e-6 if dtype == torch.float32 else None
    assert_agrees(with_dilation(REAL[case][-1]), make_inputs(shapes_of(REAL[case]), dtype), tolerance)


def test_kernels_agree_without_bias(make_inputs, assert_agrees):
    inputs = make_inputs(shapes_of((2, 2, 3, 12, 3, 1)))
    del inputs["bias"]
    assert_agrees(depthwise_conv2d, inputs)


def test_parts_of_a_map_are_read_where_they_are(make_inputs, monkeypatch):
    wide, weight = make_inputs({"x": (2, 4, 6, 40), "weight": (12, 1, 3, 3)}).values()
    part = wide[:, 1:, ::2, 5:17]
    expected = depthwise_conv2d(part, weight, backend="reference")
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "contiguous", lambda self: pytest.fail("the map is copied"))
        actual = depthwise_conv2d(part, weight, backend="triton")
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("shape", [(), (12,), (3, 12)], ids=["of the sum", "of sums per channel", "of sums over rows"])
def test_gradient_that_repeats_itself(shape, make_inputs):
    inputs = make_inputs(shapes_of((2, 2, 3, 12, 3, 1)) | {"grad_y": shape})
    grad_y = inputs.pop("grad_y").expand(2, 2, 3, 12)
    leaves = [t.requires_grad_() for t in inputs.values()]
    for actual, expected in zip(
        *(torch.autograd.grad(depthwise_conv2d(*leaves, backend=b), leaves, grad_y) for b in ("triton", "reference")),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_dtypes_under_mixed_precision(backend, make_inputs):
    x, weight, bias = make_inputs(shapes_of((1, 2, 3, 12, 3, 1))).values()
    x = x.bfloat16().requires_grad_()
    y = depthwise_conv2d(x, weight.requires_grad_(), bias.bfloat16().requires_grad_(), backend=backend)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.bfloat16
    assert weight.grad is not None and weight.grad.dtype == torch.float32


@pytest.mark.parametrize("size", [1, 9])
def test_other_kernel_sizes_take_the_reference(size, make_inputs):
    inputs = make_inputs(shapes_of((1, 2, 3, 4, size, 1)))
    assert depthwise_conv2d(**inputs).equal(depthwise_conv2d_reference(**inputs))
    with pytest.raises(ValueError, match=rf"kernels for K in \(3, 5, 7\), got K={size}; use backend='auto'"):
        depthwise_conv2d(**inputs, backend="triton")


def test_maps_of_many_sizes_share_their_kernels():
    sizes = [(height, width) for height in range(1, 140, 3) for width in range(1, 140, 3) if height != width]
    tiles = {tuple(tile_of(7, 1, *size, 64).items()) for size in sizes}
    assert len(tiles) == 2  # with a halo and without
    assert tile_of(7, 1, 28, 28, 64)["EVEN"] and tile_of(7, 1, 28, 28, 64)["S"] == 7


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compiles for a GPU")
def test_other_sizes_compile_nothing():
    def kernels():
        return sum(len(cache[0]) for cache in _convolve_kernel.device_caches.values())

    def run(*shape):
        x = torch.randn(*shape, 48, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        depthwise_conv2d(x, torch.randn(48, 1, 5, 5, device="cuda")).sum().backward()

    run(2, 16, 48)
    before = kernels()
    for shape in ((2, 32, 80), (1, 17, 33), (3, 96, 41), (1, 1, 64)):
        run(*shape)
    assert kernels() == before


@pytest.mark.parametrize("size", [3, 5, 7])
def test_slabs_cover_all_rows_once(size):
    cuts = {
        (walks, rows): _cut(walks, rows, size, resident=264)
        for walks in (0, 1, 100, 263, 264, 265, 10**4)
        for rows in (1, 7, 56, 301)
    }
    for (_, rows), (slabs, slab_rows) in cuts.items():
        assert (slabs - 1) * slab_rows < rows <= slabs * slab_rows
    # Whole walks where they fill the GPU, and cut ones where it would be idle.
    assert cuts[10**4, 56] == (1, 56)
    assert cuts[1, 56][0] > 10


@pytest.mark.parametrize(
    "x, weight, bias, dilation, message",
    [
        ((2, 3, 4), (4, 1, 3, 3), (4,), 1, r"at least one pixel and channel, got \[2, 3, 4\]"),
        ((2, 0, 3, 4), (4, 1, 3, 3), (4,), 1, r"at least one pixel and channel, got \[2, 0, 3, 4\]"),
        ((2, 3, 3, 0), (0, 1, 3, 3), (0,), 1, r"at least one pixel and channel, got \[2, 3, 3, 0\]"),
        ((2, 3, 3, 4), (5, 1, 3, 3), (4,), 1, r"K odd beside x \[2, 3, 3, 4\] of C = 4, got \[5, 1, 3, 3\]"),
        ((2, 3, 3, 4), (4, 4, 3, 3), (4,), 1, r"got \[4, 4, 3, 3\]"),
        ((2, 3, 3, 4), (4, 1, 3, 5), (4,), 1, r"got \[4, 1, 3, 5\]"),
        ((2, 3, 3, 4), (4, 1, 2, 2), (4,), 1, r"got \[4, 1, 2, 2\]"),
        ((2, 3, 3, 4), (), (4,), 1, r"got \[\]"),
        ((2, 3, 3, 4), (4, 1, 3, 3), (3,), 1, r"bias must be \[C\] beside x \[2, 3, 3, 4\] of C = 4, got \[3\]"),
        ((2, 3, 3, 4), (4, 1, 3, 3), (4,), 0, "dilation must be at least 1, got 0"),
    ],
)
def test_bad_shapes_are_named(x, weight, bias, dilation, message):
    with pytest.raises(ValueError, match=message):
        depthwise_conv2d(torch.ones(x), torch.ones(weight), torch.ones(bias), dilation=dilation)


@pytest.mark.parametrize("name", ["x", "weight", "bias"])
def test_integers_are_named(name):
    inputs = {n: torch.ones(s) for n, s in shapes_of((1, 3, 3, 4, 3, 1)).items()}
    with pytest.raises(ValueError, match=f"{name} must be floating point, got torch.int64"):
        depthwise_conv2d(**inputs | {name: inputs[name].long()})
