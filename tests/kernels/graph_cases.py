"""Trace every operator as torch.compile does, for a GPU that need not be there, and print what is left as JSON.

Usage: ``python graph_cases.py``. A process of its own, because TRITON_INTERPRET must not be set when Triton is
imported. Printed is, for each operator, what the graphs of its forward and of its backward pass call.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.compiler
from functorch.compile import aot_function, make_boxed_func, min_cut_rematerialization_partition
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from gatedvision_kernels import _dispatch  # noqa: E402
from tests.kernels.test_contract import OPERATORS, outputs  # noqa: E402


class Hopper:
    """Stands in for the driver of a GPU, as far as kernels are read and not compiled."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def graphs_of(name: str, batch: int = 2) -> dict[str, list[str]]:
    """Return what the two graphs of an operator call, in order."""
    operator = OPERATORS[name]
    calls: dict[str, list[str]] = {}

    def record(which: str) -> Any:
        def compiler(graph: torch.fx.GraphModule, _: Any) -> Any:
            calls[which] = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
            return make_boxed_func(graph.forward)

        return compiler

    shapes = {n: (batch, *shape) for n, shape in operator.batched.items()} | operator.weights

    def call(*tensors: torch.Tensor) -> torch.Tensor:
        results = outputs(operator.call(**dict(zip(shapes, tensors, strict=True)), backend="triton"))
        return torch.stack([y.sum() for y in results]).sum()

    traced = aot_function(
        call,
        fw_compiler=record("forward"),
        bw_compiler=record("backward"),
        partition_fn=min_cut_rematerialization_partition,
    )
    with FakeTensorMode():
        traced(*(torch.empty(shape, requires_grad=True) for shape in shapes.values())).backward()
    return calls


if __name__ == "__main__":
    driver.set_active(Hopper())
    torch.compiler.is_compiling = lambda: True
    # Tensors without contents lie on the CPU, where only the interpreter runs kernels.
    _dispatch.interpreting = lambda: True
    graphs = {name: graphs_of(name) for name in OPERATORS}
    graphs["large bidirectional_gla"] = graphs_of("bidirectional_gla", batch=2**16)
    print(json.dumps(graphs))
