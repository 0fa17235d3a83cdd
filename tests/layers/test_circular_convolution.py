"""Circular convolution as matrix products against the sum written out."""

import pytest
import torch
from torch import Tensor

from gatedvision.layers.circular_convolution import circular_convolution

SIZES = [(1, 1), (1, 4), (4, 1), (3, 5), (6, 4)]


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def convolve_by_sums(x: Tensor, kernel: Tensor) -> Tensor:
    """Move the map by each distance, and sum."""
    channels, height, width = kernel.shape
    y = torch.zeros_like(x)
    for i in range(height):
        for j in range(width):
            y += kernel[:, i, j].view(1, 1, 1, channels) * x.roll((i, j), (1, 2))
    return y


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_by_its_sum(size: tuple[int, int]) -> None:
    x, kernel = draw(2, *size, 3), draw(3, *size, seed=1)
    torch.testing.assert_close(circular_convolution(x, kernel), convolve_by_sums(x, kernel))


@pytest.mark.parametrize("size", [(1, 3), (3, 2)], ids=lambda size: "x".join(map(str, size)))
def test_gradients(size: tuple[int, int]) -> None:
    x, kernel = draw(2, *size, 2).requires_grad_(), draw(2, *size, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(circular_convolution, (x, kernel))
    assert torch.autograd.gradgradcheck(circular_convolution, (x, kernel))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
def test_sixteen_bits_cost_one_rounding(dtype: torch.dtype, autocast: bool) -> None:
    x, kernel = draw(2, 7, 7, 3, dtype=dtype), draw(3, 7, 7, seed=1)
    exact = convolve_by_sums(x.double(), kernel)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = circular_convolution(x, kernel.float())
    assert y.dtype == dtype
    # Half a unit of the last digit, by the size of each element, and what the two parts of the kernel leave out.
    unit = torch.finfo(dtype).eps / 2 * exact.abs() + 2**-15 * exact.std()
    assert ((y.double() - exact).abs() <= unit).all()


def test_gradients_in_sixteen_bits() -> None:
    x, kernel, dy = draw(8, 7, 7, 3), draw(3, 7, 7, seed=1), draw(8, 7, 7, 3, seed=2)
    inputs = [x.bfloat16().requires_grad_(), kernel.float().requires_grad_()]
    wide = [x.bfloat16().double().requires_grad_(), kernel.float().double().requires_grad_()]
    expected = torch.autograd.grad(convolve_by_sums(*wide), wide, dy.bfloat16().double())
    actual = torch.autograd.grad(circular_convolution(*inputs), inputs, dy.bfloat16())
    assert [grad.dtype for grad in actual] == [torch.bfloat16, torch.float32]
    for found, exact in zip(actual, expected, strict=True):
        assert (found.double() - exact).std() < 3e-3 * exact.std()


def test_maps_need_not_be_contiguous() -> None:
    x, kernel = draw(2, 3, 4, 6), draw(3, 3, 4, seed=1)
    part = x.chunk(2, dim=-1)[1]
    assert torch.equal(circular_convolution(part, kernel), circular_convolution(part.contiguous(), kernel))


def test_compiled() -> None:
    inputs = [draw(2, 3, 4, 3, dtype=torch.float32), draw(3, 3, 4, dtype=torch.float32, seed=1)]
    results = []
    for call in (circular_convolution, torch.compile(circular_convolution, fullgraph=True)):
        leaves = [x.clone().requires_grad_() for x in inputs]
        y = call(*leaves)
        results.append([y.detach(), *torch.autograd.grad(y.square().sum(), leaves)])
    torch.testing.assert_close(results[1], results[0])


def test_keeps_only_map_and_kernel() -> None:
    x, kernel = draw(2, 3, 4, 3).requires_grad_(), draw(3, 3, 4, seed=1).requires_grad_()
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        circular_convolution(x, kernel)
    assert sorted(kept) == sorted([x.numel(), kernel.numel()])
