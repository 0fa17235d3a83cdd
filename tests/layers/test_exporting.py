"""Exports are told from compilations, which torch itself does not do in all releases."""

import pytest
import torch
from torch import Tensor, nn

from gatedvision.layers._exporting import is_exporting


class Told(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + (1 if is_exporting() else 0)


@pytest.mark.parametrize("strict", [False, True])
def test_only_exports_are_exports(strict: bool) -> None:
    module, x = Told(), torch.zeros(1)
    assert module(x).item() == 0
    torch.compiler.reset()
    assert torch.compile(module, backend="aot_eager", fullgraph=True)(x).item() == 0
    assert torch.export.export(module, (x,), strict=strict).module()(x).item() == 1
    torch.compiler.reset()
    assert torch.compile(module, backend="eager", fullgraph=True)(x).item() == 0
