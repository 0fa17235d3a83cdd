"""What compiled training keeps of layers that it computes again."""

from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd

from gatedvision.layers import GatedLinearAttention, GlobalLocalFilter, SwiGluMlp, _recompute
from tests.golden.golden import draw_input


def maps_kept(layer: nn.Module) -> list[torch.Size]:
    """Compile a layer of 6 channels, compare its gradients, and return the shapes of what it kept beside parameters."""
    kept: list[Tensor] = []

    def keep_outputs(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        (output,) = graph.graph.find_nodes(op="output")
        kept.extend(x.meta["val"] for x in output.args[0] if isinstance(x, torch.fx.Node))
        return make_boxed_func(graph.forward)

    torch.compiler.reset()
    backend = aot_autograd(fw_compiler=keep_outputs, bw_compiler=lambda graph, inputs: make_boxed_func(graph.forward))
    layer = layer.double()
    x, seed = (draw_input(2, 5, 7, 6, seed=seed) for seed in (0, 1))
    leaves = [x.requires_grad_(), *layer.parameters()]
    expected = torch.autograd.grad(layer(x), leaves, seed)
    actual = torch.autograd.grad(torch.compile(layer, backend=backend, fullgraph=True)(x), leaves, seed)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    return [kept_map.shape for kept_map in kept if kept_map.ndim and kept_map.shape[0] == len(x)]


@pytest.mark.parametrize(
    "layer", [GlobalLocalFilter(6, (5, 7)), SwiGluMlp(6, 16)], ids=lambda layer: type(layer).__name__
)
def test_compiled_training_keeps_the_input_alone(layer: nn.Module) -> None:
    # The output, and the input; all else kept are parameters.
    assert maps_kept(layer) == [(2, 5, 7, 6)] * 2


@pytest.mark.parametrize("silu", [False, True])
def test_compiled_training_keeps_no_decays_gates_and_mixtures(silu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attention of plain torch keeps what the kernels do not: counted are maps beside those of all it keeps."""
    torch.manual_seed(0)
    layer = GatedLinearAttention(6, 1, silu)
    kept = maps_kept(layer)
    monkeypatch.setattr(_recompute, "is_exporting", lambda: True)
    numbers, numbers_plain = (sum(map(torch.Size.numel, shapes)) for shapes in (kept, maps_kept(layer)))
    # Three maps of six channels at least: of their logits or logarithms, gates, and mixed branches.
    assert numbers <= numbers_plain - 3 * 2 * 5 * 7 * 6
