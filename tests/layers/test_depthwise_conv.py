"""Depthwise convolution of channels-last maps."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gatedvision.layers import DepthwiseConv, depthwise_conv


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kernel_size", "dilation"), [(1, 1), (3, 1), (7, 1), (3, 3), (5, 2)])
def test_each_channel_has_its_own_kernel(kernel_size: int, dilation: int, bias: bool) -> None:
    torch.manual_seed(0)
    module = DepthwiseConv(5, kernel_size, bias, dilation, dtype=torch.float64)
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    reach = kernel_size // 2 * dilation
    padded = torch.zeros(2, 4 + 2 * reach, 6 + 2 * reach, 5, dtype=torch.float64)
    padded[:, reach : reach + 4, reach : reach + 6] = x
    expected = torch.zeros_like(x) if module.bias is None else module.bias.expand_as(x).clone()
    for i in range(kernel_size):
        for j in range(kernel_size):
            rows, columns = slice(i * dilation, i * dilation + 4), slice(j * dilation, j * dilation + 6)
            expected += padded[:, rows, columns] * module.weight[:, 0, i, j]
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("dilation", [1, 2])
def test_gives_what_torch_gives(dilation: int) -> None:
    torch.manual_seed(0)
    module, x = DepthwiseConv(6, 5, dilation=dilation), torch.randn(2, 7, 4, 6)
    # Of its base class the module keeps parameters, padding and dilation: tools that read these see the truth.
    expected = nn.Conv2d.forward(module, x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(module(x), expected)


def test_autocast_applies_to_the_map() -> None:
    module, x = DepthwiseConv(6, 5, dilation=2), torch.randn(2, 7, 4, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, module(x.bfloat16()), rtol=0, atol=0)
    y.float().sum().backward()
    assert all(t.grad is not None and t.grad.dtype == torch.float32 for t in (x, *module.parameters()))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
@pytest.mark.parametrize("bias", [True, False])
def test_torchscript(bias: bool) -> None:
    module, x = DepthwiseConv(6, 5, bias, dilation=2), torch.randn(2, 7, 4, 6)
    torch.testing.assert_close(torch.jit.script(module)(x), module(x), rtol=0, atol=0)


def test_exported_programs_hold_no_region_of_autocast() -> None:
    module, x = DepthwiseConv(6, 5), torch.randn(2, 7, 4, 6)
    program = torch.export.export(module, (x,))
    torch.testing.assert_close(program.module()(x), module(x), rtol=0, atol=0)
    assert not [n for n in program.graph.nodes if "autocast" in str(n.target)]


def test_channels_stay_last_in_memory() -> None:
    x = torch.randn(2, 9, 6, 10)
    assert DepthwiseConv(10, 7)(x).is_contiguous()
    # What precedes the gates in gnConv is a part of a wider map.
    assert DepthwiseConv(6, 7)(x[..., 4:]).is_contiguous()


def test_even_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size must be odd.*got 4"):
        DepthwiseConv(8, 4)


def test_kernel_only_where_it_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module, x = DepthwiseConv(6, 3, dilation=2, eager_kernel=False), torch.randn(2, 7, 4, 6)
    operator, dilations = depthwise_conv.convolve_depthwise, []

    def note(*arguments: Any) -> Tensor:
        dilations.append(arguments[3])
        return operator(*arguments)

    monkeypatch.setattr(depthwise_conv, "convolve_depthwise", note)
    expected = operator(x, module.weight, module.bias, 2)
    torch.testing.assert_close(module(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(x).dtype == torch.bfloat16
    assert not dilations
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(module(x), expected)
    assert dilations == [2]


def test_without_the_kernel_it_is_recorded() -> None:
    module, x = DepthwiseConv(6, 3, eager_kernel=False), torch.randn(2, 7, 4, 6)
    torch.testing.assert_close(torch.jit.script(module)(x), module(x))
    torch.testing.assert_close(torch.fx.symbolic_trace(module)(x), module(x))
    torch.testing.assert_close(torch.export.export(module, (x,)).module()(x), module(x))
