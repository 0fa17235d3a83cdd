"""Convolutions of images as products: what they compute, and who keeps the convolution."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from timm.models import get_notrace_modules
from torch import nn

from gatedvision.layers import image_conv
from gatedvision.layers.image_conv import ImageConv, takes_product


@pytest.fixture
def as_on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let layers choose as they do for 16 bits on a GPU."""
    monkeypatch.setattr(image_conv, "takes_product", lambda conv, x: True)


# Kernel, stride and padding: ViT's patches, ViG's stem, sides that differ.
CASES = [(4, 4, 0), (9, 8, 1), ((3, 5), (4, 6), (0, 2))]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "padding"), CASES)
@pytest.mark.usefixtures("as_on_gpu")
def test_product_is_the_convolution(kernel: Any, stride: Any, padding: Any, bias: bool) -> None:
    torch.manual_seed(0)
    layer = ImageConv(3, 6, kernel, stride, padding, bias=bias, dtype=torch.float64)
    # With columns left over at the right.
    x = torch.randn(2, 3, 26, 33, dtype=torch.float64, requires_grad=True)
    expected = nn.Conv2d.forward(layer, x)
    actual = layer(x)
    assert actual.shape == expected.shape and actual.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    leaves = [x, *layer.parameters()]
    seed = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, leaves, seed), torch.autograd.grad(expected, leaves, seed), rtol=1e-12, atol=1e-12
    )


@pytest.mark.usefixtures("as_on_gpu")
def test_rounds_as_autocast_does() -> None:
    layer = ImageConv(3, 8, 4, 4)
    x = torch.randn(2, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("conv", "dtype", "expected"),
    [
        (nn.Conv2d(3, 8, 16, 16), torch.bfloat16, True),
        (nn.Conv2d(3, 8, 16, 16), torch.float16, True),
        (nn.Conv2d(3, 8, 16, 16), torch.float32, False),
        (nn.Conv2d(3, 8, 3, 2, 1), torch.bfloat16, False),
        (nn.Conv2d(64, 8, 4, 4), torch.bfloat16, False),
        (nn.Conv2d(4, 8, 4, 4, groups=2), torch.bfloat16, False),
        (nn.Conv2d(3, 8, 4, 4, dilation=2), torch.bfloat16, False),
        (nn.Conv2d(3, 8, 4, 4, 1, padding_mode="reflect"), torch.bfloat16, False),
        (nn.Conv2d(3, 8, 4, 4, "valid"), torch.bfloat16, False),
    ],
    ids=str,
)
def test_who_takes_the_product(conv: nn.Conv2d, dtype: torch.dtype, expected: bool) -> None:
    # What the layer asks a tensor on a GPU for.
    x: Any = SimpleNamespace(is_cuda=True, ndim=4, is_meta=False, device=torch.device("cpu"), dtype=dtype)
    assert takes_product(conv, x) == expected
    assert not takes_product(conv, torch.zeros(1, 3, 16, 16, dtype=dtype))


def test_programs_keep_the_convolution() -> None:
    layer = nn.Sequential(ImageConv(3, 8, 4, 4)).eval()
    x = torch.randn(2, 3, 16, 16)
    expected = layer(x)
    torch.testing.assert_close(torch.jit.script(layer)(x), expected)
    assert ImageConv in get_notrace_modules()  # timm's feature extractors keep it whole
    assert "conv2d" in str(torch.export.export(layer, (x,)).graph)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="products are for GPUs")
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(16, 16, 0), (9, 8, 1)])
def test_on_a_gpu(kernel: int, stride: int, padding: int) -> None:
    layer = ImageConv(3, 64, kernel, stride, padding, device="cuda")
    x = torch.randn(2, 3, 224, 224, device="cuda")
    expected = nn.Conv2d.forward(layer.double(), x.double())
    layer.bfloat16()
    assert takes_product(layer, x.bfloat16())
    for run in (layer, torch.compile(layer, fullgraph=True)):
        error = (run(x.bfloat16()).double() - expected).norm() / expected.norm()
        assert error < 0.01
