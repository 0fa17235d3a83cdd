"""What the linear layers on recomputed operators promise beyond the contract of all operators."""

from math import prod

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from gatedvision_kernels import gated_product_linear
from gatedvision_kernels._column_sum import column_sum

SHAPES = {"gate": (3, 5, 13), "value": (3, 5, 13), "weight": (7, 13), "bias": (7,)}


@pytest.fixture
def inputs(make_inputs) -> dict[str, Tensor]:
    return {name: x.requires_grad_() for name, x in make_inputs(SHAPES).items()}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_keeps_its_inputs_alone(compiled, inputs):
    def step(**inputs: Tensor) -> Tensor:
        # Neither the operator's inputs nor its output are kept by what is around it.
        return gated_product_linear(**{n: x + 1 for n, x in inputs.items()}, backend="triton").sum()

    kept = {}
    torch.compiler.reset()
    # By the compiler that people have: without its decompositions torch takes two empty buffers for the same value.
    call = torch.compile(step, fullgraph=True) if compiled else step
    # By where they lie: what is kept as a map and as rows of it takes memory once.
    with saved_tensors_hooks(lambda x: kept.update({x.untyped_storage().data_ptr(): x.numel()}) or x, lambda x: x):
        loss = call(**inputs)
    # Gate, value and weight; the product would be one more.
    assert sorted(kept.values()) == sorted(prod(SHAPES[name]) for name in ("gate", "value", "weight"))
    loss.backward()
    assert all(x.grad is not None for x in inputs.values())


@pytest.mark.parametrize("frozen", [("weight", "bias"), ("weight",), ("gate", "value")], ids="+".join)
def test_frozen_inputs(frozen, inputs):
    for name in frozen:
        inputs[name].requires_grad_(False)
    leaves = {name: x for name, x in inputs.items() if name not in frozen}
    gradients = {
        backend: torch.autograd.grad(gated_product_linear(**inputs, backend=backend).sum(), list(leaves.values()))
        for backend in ("triton", "reference")
    }
    for name, actual, expected in zip(leaves, gradients["triton"], gradients["reference"], strict=True):
        torch.testing.assert_close(actual, expected, msg=lambda text, name=name: f"gradient of {name}: {text}")


def test_without_bias(make_inputs, assert_agrees):
    assert_agrees(gated_product_linear, make_inputs({n: s for n, s in SHAPES.items() if n != "bias"}))


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_dtypes_under_mixed_precision(backend, make_inputs):
    inputs = make_inputs(SHAPES)
    inputs |= {name: inputs[name].bfloat16() for name in ("gate", "value")}
    leaves = [x.requires_grad_() for x in inputs.values()]
    y = gated_product_linear(**inputs, backend=backend)
    assert y.dtype == torch.bfloat16
    assert [g.dtype for g in torch.autograd.grad(y.sum(), leaves)] == [x.dtype for x in leaves]


def test_flops_of_forward_and_backward():
    gate, value, weight, bias = (torch.empty(s, device="meta", requires_grad=True) for s in SHAPES.values())
    with FlopCounterMode(display=False) as forward:
        y = torch.ops.gatedvision.gated_product_linear(weight, bias, gate, value, False)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    assert forward.get_total_flops() == 2 * 15 * 13 * 7
    assert backward.get_total_flops() == 2 * forward.get_total_flops()


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (5, 7, 13), (65, 257)], ids=str)
def test_column_sum(shape, make_inputs):
    (x,) = make_inputs({"x": shape}, torch.float16).values()
    sums = column_sum(x)
    assert sums.dtype == torch.float32
    torch.testing.assert_close(sums, x.double().flatten(0, -2).sum(0).float())


@pytest.mark.parametrize(
    "weight, bias, message",
    [
        (torch.ones(7, 12), None, r"weight must be \[O, 13\] with O > 0, got \(7, 12\)"),
        (torch.ones(13), None, r"got \(13,\)"),
        (torch.ones(7, 13), torch.ones(13), r"bias must be \[7\] beside weight \(7, 13\), got \[13\]"),
        (torch.ones(7, 13).long(), None, "weight must be floating point, got torch.int64"),
        (torch.ones(7, 13), torch.ones(7).long(), "bias must be floating point, got torch.int64"),
    ],
)
def test_bad_parameters_are_named(weight, bias, message):
    x = torch.ones(2, 13)
    with pytest.raises(ValueError, match=message):
        gated_product_linear(x, x, weight, bias)
