"""The recursive gated convolution against its formula, one product after the other."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedvision.layers import GlobalLocalFilter, RecursiveGatedConv


def layer(*args: Any, **kwargs: Any) -> RecursiveGatedConv:
    torch.manual_seed(0)
    module = RecursiveGatedConv(*args, **kwargs, dtype=torch.float64)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def project(x: Tensor, linear: Any) -> Tensor:
    """Apply a linear layer to ``[B, C, H, W]``."""
    return F.conv2d(x, linear.weight[:, :, None, None], linear.bias)


def by_formula(module: RecursiveGatedConv, x: Tensor, widths: list[int]) -> Tensor:
    x = project(x.permute(0, 3, 1, 2), module.proj_in)
    y, q = x[:, : widths[0]], x[:, widths[0] :]
    if isinstance(module.spatial, GlobalLocalFilter):
        q = module.spatial(q.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    else:
        side = module.spatial.weight.shape[-1]
        q = F.conv2d(q, module.spatial.weight, module.spatial.bias, padding=side // 2, groups=sum(widths))
    start = 0
    for k, width in enumerate(widths):
        y = y if k == 0 else project(y, module.projs[k - 1])
        y = y * (module.scale * q[:, start : start + width])
        start += width
    return project(y, module.proj_out).permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("order", "widths"),
    [(1, [16]), (2, [8, 16]), (3, [4, 8, 16]), (4, [2, 4, 8, 16]), (5, [1, 2, 4, 8, 16])],
)
@pytest.mark.parametrize("options", [{}, {"in_dim": 6, "kernel_size": 3, "scale": 1 / 3}], ids=["plain", "options"])
def test_layer_by_its_formula(order: int, widths: list[int], options: dict[str, Any]) -> None:
    module = layer(16, order, **options)
    x = torch.randn(2, 5, 9, options.get("in_dim", 16), dtype=torch.float64)
    torch.testing.assert_close(module(x), by_formula(module, x, widths))


def test_gates_from_a_global_filter() -> None:
    module, x = layer(16, 3, map_size=(7, 7), scale=1 / 3), torch.randn(2, 5, 9, 16, dtype=torch.float64)
    torch.testing.assert_close(module(x), by_formula(module, x, [4, 8, 16]))
    assert module.spatial.complex_weight.shape == (14, 7, 4, 2)


def test_every_parameter_is_used() -> None:
    for options in ({}, {"map_size": (4, 4)}):
        module = layer(8, 3, **options)
        module(torch.randn(2, 4, 6, 8, dtype=torch.float64)).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_wrong_arguments_name_the_values() -> None:
    with pytest.raises(ValueError, match="dim must be a multiple of 8 for order 4, got 20"):
        RecursiveGatedConv(20, 4)
    with pytest.raises(ValueError, match="order must be positive, got 0"):
        RecursiveGatedConv(16, 0)
    with pytest.raises(ValueError, match="dim must be even.*got 15"):
        RecursiveGatedConv(8, 4, map_size=(7, 7))
