"""The global-local filter against Fourier sums written out, in every form and at every size."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedvision.layers import GlobalLocalFilter
from gatedvision.layers.global_filter import filter_spectrum, resize_spectrum

SIZES = [(1, 1), (1, 4), (4, 1), (2, 2), (7, 7), (6, 9), (5, 8), (14, 14), (13, 31)]
FORMS = ("auto", "fft", "matrix")
every_size = pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def fourier(length: int) -> Tensor:
    """Return the unitary matrix of the Fourier transform."""
    turns = torch.outer(torch.arange(length), torch.arange(length)).double() / length
    return torch.polar(torch.full_like(turns, length**-0.5), -2 * math.pi * turns)


def filter_by_sums(x: Tensor, weight: Tensor) -> Tensor:
    """Filter ``[B, H, W, C]`` by ``[C, H, F, 2]``: transform, multiply, undo the height, then the width."""
    height, width = x.shape[1:3]
    over_height, over_width = fourier(height), fourier(width)
    half = width // 2 + 1
    spectrum = torch.einsum("gh,fw,bhwc->bgfc", over_height, over_width, x.to(torch.complex128))[:, :, :half]
    spectrum = spectrum * torch.view_as_complex(weight.permute(1, 2, 0, 3).contiguous())
    rows = torch.einsum("gh,bgfc->bhfc", over_height.conj(), spectrum)
    real = rows.real.clone()
    # Frequencies that are their own conjugates keep their real parts; the others come with their conjugates.
    whole = torch.zeros(*rows.shape[:2], width, rows.shape[3], dtype=torch.complex128)
    whole[:, :, 0] = real[:, :, 0]
    for frequency in range(1, half):
        alone = 2 * frequency == width
        whole[:, :, frequency] = real[:, :, frequency] if alone else rows[:, :, frequency]
        whole[:, :, width - frequency] = whole[:, :, frequency].conj()
    y = torch.einsum("fw,bhfc->bhwc", over_width.conj(), whole)
    assert y.imag.abs().max() < 1e-12 * max(1.0, float(y.abs().max()))
    return y.real


def resize_by_loops(weight: Tensor, height: int, frequencies: int) -> Tensor:
    """Interpolate ``[C, h, f, 2]`` linearly between the four nearest values, the corners staying corners."""
    channels, rows, columns, _ = weight.shape
    resized = torch.empty(channels, height, frequencies, 2, dtype=weight.dtype)
    for i in range(height):
        for j in range(frequencies):
            y = i * (rows - 1) / (height - 1) if height > 1 else 0.0
            x = j * (columns - 1) / (frequencies - 1) if frequencies > 1 else 0.0
            top, left = min(int(y), rows - 1), min(int(x), columns - 1)
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            y, x = y - top, x - left
            upper = (1 - x) * weight[:, top, left] + x * weight[:, top, right]
            lower = (1 - x) * weight[:, bottom, left] + x * weight[:, bottom, right]
            resized[:, i, j] = (1 - y) * upper + y * lower
    return resized


@every_size
def test_resized_filters(size: tuple[int, int]) -> None:
    weight, (height, width) = draw(3, 6, 4, 2), size
    frequencies = width // 2 + 1
    torch.testing.assert_close(
        resize_spectrum(weight, height, frequencies), resize_by_loops(weight, height, frequencies)
    )


def test_filters_that_fit_stay_as_they_are() -> None:
    weight = draw(3, 6, 4, 2)
    assert resize_spectrum(weight, 6, 4) is weight
    assert torch.equal(resize_spectrum(weight.bfloat16(), 6, 4), weight.bfloat16().float())


@every_size
@pytest.mark.parametrize("form", FORMS)
def test_filter_by_its_sums(form: str, size: tuple[int, int]) -> None:
    x, weight = draw(2, *size, 3), draw(3, 6, 4, 2, seed=1)
    expected = filter_by_sums(x, resize_by_loops(weight, size[0], size[1] // 2 + 1))
    torch.testing.assert_close(filter_spectrum(x, weight, form), expected, rtol=1e-12, atol=1e-12)


@every_size
def test_forms_agree_in_float32(size: tuple[int, int]) -> None:
    results = []
    for form in FORMS:
        x, weight = (draw(*shape, dtype=torch.float32).requires_grad_() for shape in ((2, *size, 3), (3, 6, 4, 2)))
        y = filter_spectrum(x, weight, form)
        (y * draw(*y.shape, dtype=torch.float32, seed=2)).sum().backward()
        results.append({"y": y.detach(), "x": x.grad, "weight": weight.grad})
    for form, result in zip(FORMS[1:], results[1:], strict=True):
        for name, expected in results[0].items():
            assert (result[name] - expected).abs().max() <= 1e-5 * expected.abs().max(), (form, name)


@pytest.mark.parametrize("form", FORMS)
def test_gradients(form: str) -> None:
    x, weight = draw(1, 4, 5, 2).requires_grad_(), draw(2, 3, 4, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda *inputs: filter_spectrum(*inputs, form), (x, weight))


@pytest.mark.parametrize("form", FORMS)
def test_autocast_leaves_the_spectrum_alone(form: str) -> None:
    x, weight = draw(2, 7, 6, 3, dtype=torch.bfloat16), draw(3, 7, 4, 2, dtype=torch.float32)
    expected = filter_spectrum(x.float(), weight, form)
    with torch.autocast("cpu", torch.bfloat16):
        actual = filter_spectrum(x, weight, form)
    assert actual.dtype == torch.bfloat16 and torch.equal(actual, expected.bfloat16())


@pytest.mark.parametrize("strict", [False, True])
def test_an_export_takes_any_size_without_complex_numbers(strict: bool) -> None:
    module, x = GlobalLocalFilter(8, (6, 6)), draw(2, 5, 7, 8, dtype=torch.float32)
    sides = dict.fromkeys((0, 1, 2), torch.export.Dim.DYNAMIC)
    program = torch.export.export(module, (x,), dynamic_shapes=(sides,), strict=strict)
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("mul" in name for name in called)
    assert not any("fft" in name or "complex" in name for name in called)
    for size in ((5, 7), (6, 6), (14, 9)):
        x = draw(3, *size, 8, dtype=torch.float32)
        torch.testing.assert_close(program.module()(x), module(x), rtol=1e-5, atol=1e-5)


def test_unknown_form() -> None:
    with pytest.raises(ValueError, match="form must be 'auto', 'fft' or 'matrix', got 'dct'"):
        filter_spectrum(torch.ones(1, 2, 2, 1), torch.ones(1, 2, 2, 2), "dct")


def layer(dim: int = 6, map_size: tuple[int, int] = (5, 6), **dd: Any) -> GlobalLocalFilter:
    torch.manual_seed(0)
    module = GlobalLocalFilter(dim, map_size, **dd)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


@every_size
def test_layer_by_its_formula(size: tuple[int, int]) -> None:
    module, x = layer(dtype=torch.float64), draw(2, *size, 6)

    def norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight + norm.bias

    z = norm(module.norm_pre, x)
    near = F.conv2d(z[..., :3].permute(0, 3, 1, 2), module.conv_dw.weight, padding=1, groups=3).permute(0, 2, 3, 1)
    weight = resize_by_loops(module.complex_weight.detach(), size[0], size[1] // 2 + 1)
    mixed = torch.empty_like(z)
    mixed[..., ::2], mixed[..., 1::2] = near, filter_by_sums(z[..., 3:].detach(), weight)
    torch.testing.assert_close(module(x), norm(module.norm_post, mixed), rtol=1e-9, atol=1e-9)


def test_layer_in_sixteen_bits() -> None:
    module, x = layer(), draw(2, 7, 6, 6, dtype=torch.float32)
    expected = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = module(x)
    narrow = module.bfloat16()(x.bfloat16())
    assert narrow.dtype == torch.bfloat16
    for actual in (mixed, narrow):
        assert (actual.float() - expected).std() < 0.02 * expected.std()


def test_memory_order_of_the_weights_does_not_matter() -> None:
    module, x = layer(), draw(2, 7, 6, 6, dtype=torch.float32)
    expected = module(x)
    assert torch.equal(module.to(memory_format=torch.channels_last)(x), expected)


def test_wrong_arguments_name_the_values() -> None:
    with pytest.raises(ValueError, match="dim must be even.*got 5"):
        GlobalLocalFilter(5, (7, 7))
    with pytest.raises(ValueError, match=r"map_size must be positive, got \(0, 7\)"):
        GlobalLocalFilter(6, (0, 7))
