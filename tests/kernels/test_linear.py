"""Linear layers on a CPU: which become convolutions, and that it changes nothing but the time."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gatedvision_kernels import _linear
from gatedvision_kernels._linear import apply_linear, apply_transposed_linear, is_large_on_cpu


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let layers choose as they do with more than one thread."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(256,), (2, 128), (2, 4, 40), (0, 256)])
def test_convolution_is_the_linear_layer(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], bias: bool) -> None:
    monkeypatch.setattr(_linear, "MIN_PRODUCTS", 0)
    inputs = [draw(*shape, 24).transpose(0, -2).requires_grad_(), draw(40, 24).requires_grad_()]
    inputs += [draw(40).requires_grad_()] if bias else []
    expected = F.linear(*inputs)
    assert is_large_on_cpu(*inputs[:2]) == (0 not in shape)
    with monkeypatch.context() as patch:
        if 0 not in shape:
            patch.setattr(F, "linear", None)
        actual = apply_linear(*inputs)
    torch.testing.assert_close(actual, expected)
    seed = torch.randn_like(expected)
    found, wanted = (torch.autograd.grad(y, inputs, seed) for y in (actual, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [0, 5, 131])
def test_convolution_is_the_transposed_linear_layer(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(_linear, "MIN_PRODUCTS", 0)
    # One of several experts, and rows out of the middle.
    x, weight, bias = draw(rows + 2, 24).requires_grad_(), draw(3, 24, 40).requires_grad_(), draw(40).requires_grad_()
    inputs = [x[1:-1], weight[1], bias]
    expected = inputs[0] @ inputs[1] + bias
    with monkeypatch.context() as patch:
        patch.setattr(*((torch, "addmm", None) if rows > 5 else (F, "conv2d", None)))
        actual = apply_transposed_linear(*inputs)
    torch.testing.assert_close(actual, expected)
    seed = torch.randn_like(expected)
    found, wanted = (torch.autograd.grad(y, [x, weight, bias], seed) for y in (actual, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def narrow(x: Tensor, weight: Tensor) -> bool:
    return is_large_on_cpu(x.bfloat16(), weight.bfloat16())


def wide(x: Tensor, weight: Tensor) -> bool:
    return is_large_on_cpu(x.double(), weight.double())


def autocast(x: Tensor, weight: Tensor) -> bool:
    with torch.autocast("cpu", torch.bfloat16):
        return is_large_on_cpu(x, weight)


def elsewhere(x: Tensor, weight: Tensor) -> bool:
    return is_large_on_cpu(x.to("meta"), weight.to("meta"))


def few_rows(x: Tensor, weight: Tensor) -> bool:
    return is_large_on_cpu(x[: _linear.MIN_ROWS - 1], weight.repeat(8, 1))


def few_products(x: Tensor, weight: Tensor) -> bool:
    return is_large_on_cpu(x, weight[:100])


def other_width(x: Tensor, weight: Tensor) -> bool:
    return is_large_on_cpu(x[:, :-1], weight)


@pytest.mark.parametrize("case", [narrow, wide, autocast, elsewhere, few_rows, few_products, other_width])
def test_what_stays_a_linear_layer(case: Callable[[Tensor, Tensor], bool]) -> None:
    x, weight = draw(256, 256), draw(512, 256)
    assert is_large_on_cpu(x, weight) and not case(x, weight)


def test_one_thread_stays_with_linear_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert not is_large_on_cpu(draw(256, 256), draw(512, 256))


def test_recorded_programs_have_linear_layers() -> None:
    x, weight = draw(256, 256), draw(512, 256)
    traced = torch.jit.trace(apply_linear, (x, weight))
    assert "aten::linear" in str(traced.graph) and "conv" not in str(traced.graph)
    assert "aten::linear" in str(torch.jit.script(apply_linear).inlined_graph)
    graphs = []

    def keep(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(str(graph.graph))
        return graph.forward

    torch.testing.assert_close(
        torch.compile(apply_linear, backend=keep, fullgraph=True)(x, weight), F.linear(x, weight)
    )
    assert len(graphs) == 1 and "linear" in graphs[0] and "conv" not in graphs[0]
