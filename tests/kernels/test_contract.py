"""What every operator promises beyond its formula; a new operator is one more row of ``OPERATORS``."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import gatedvision_kernels
from gatedvision_kernels import (
    add_layer_norm,
    add_rms_norm,
    additive_gate,
    bias_gelu,
    bias_gelu_linear,
    bidirectional_gla,
    channel_aggregation,
    channel_aggregation_linear,
    depthwise_conv2d,
    filter_spectrum,
    gated_activation,
    gated_norm_mix,
    gated_product,
    gated_product_linear,
    gather_tokens,
    key_gains,
    layer_norm,
    moe_combine,
    moe_dispatch,
    moe_slots,
    recursive_gate,
    rms_norm,
    scatter_tokens,
    spatial_decomposition,
    swiglu,
    swiglu_mlp,
    top_k_gates,
    wide_linear,
)


class Operator(NamedTuple):
    call: Callable
    batched: dict[str, tuple[int, ...]]  # shapes of inputs behind the batch axis
    weights: dict[str, tuple[int, ...]] = {}  # shapes of inputs without one
    tolerance: float | None = None  # of the tests' own comparison, where its default is too strict
    arguments: Callable[..., dict[str, Tensor]] = dict  # makes the operator's own inputs of those above
    options: dict[str, int] = {}  # numbers without a default


def scan(query, key, value, log_decay_forward, log_decay_backward, **options) -> Tensor:
    """Take any number for a log-decay, which must not be positive."""
    decays = (F.logsigmoid(log_decay_forward), F.logsigmoid(log_decay_backward))
    return bidirectional_gla(query, key, value, *decays, **options)


def make_slots(some: Tensor) -> dict[str, Tensor]:
    """Give two choices of each token slots, last token first; every third choice is dropped, one slot stays empty."""
    choices = torch.arange(2 * some[..., 0].numel(), device=some.device)
    mirrored = len(choices) - 1 - choices
    choice_of_slot = torch.where(mirrored % 3 != 0, mirrored, -1)
    slot_of_choice = torch.where(choices % 3 != 0, mirrored, -1)
    return {"choice_of_slot": choice_of_slot, "slot_of_choice": slot_of_choice.view(*some.shape[:-1], 2)}


def dispatch_arguments(x: Tensor) -> dict[str, Tensor]:
    return {"x": x, **make_slots(x)}


def combine_arguments(x: Tensor, gates: Tensor) -> dict[str, Tensor]:
    """Make twice as many slots as there are tokens."""
    return {"buffers": torch.cat([x, -x], 1).reshape(-1, x.shape[-1]), "gates": gates, **make_slots(gates)}


def dispatch(x: Tensor, **options) -> Tensor:
    return moe_dispatch(**dispatch_arguments(x), **options)


def combine(x: Tensor, gates: Tensor, **options) -> Tensor:
    return moe_combine(**combine_arguments(x, gates), **options)


def gather_arguments(x: Tensor) -> dict[str, Tensor]:
    """Keep two of three tokens, last first; every third row stays zero."""
    mirrored = torch.arange(x[..., 0].numel(), device=x.device).flip(0)
    place = torch.where(mirrored % 3 != 0, mirrored, -1)
    return {"x": x, "index": torch.where(mirrored.flip(0) % 3 != 0, mirrored, -1), "place": place.view(x.shape[:-1])}


def scatter_arguments(x: Tensor) -> dict[str, Tensor]:
    """Copy every row to two cells, of which one in three stays zero."""
    rows = x.reshape(-1, x.shape[-1])
    cells = torch.arange(2 * len(rows), device=x.device)
    source = torch.where(cells % 3 != 0, cells // 2, -1)
    return {"rows": rows, "source": source, "cells": torch.where(cells % 3 != 0, cells, -1).view(-1, 2)}


def gather(x: Tensor, **options) -> Tensor:
    return gather_tokens(**gather_arguments(x), **options)


def scatter(x: Tensor, **options) -> Tensor:
    return scatter_tokens(**scatter_arguments(x), **options)


def choose(logits: Tensor, **options) -> Tensor:
    """Mark each gate with its expert."""
    gates, experts = top_k_gates(logits, 3, **options)
    return gates * (1 + experts)


def filter_arguments(x: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Round maps to the sixteen bits that the kernels take."""
    return {"x": x.half() if x.dtype == torch.float32 else x, "weight": weight}


def filter_maps(x: Tensor, weight: Tensor, **options) -> Tensor:
    return filter_spectrum(**filter_arguments(x, weight), **options).to(x.dtype)


SLOTS = {"num_experts": 2, "group_size": 3, "capacity": 2}


def slots_arguments(x: Tensor, priority: Tensor) -> dict[str, Tensor]:
    """Make the sign of a number the choice of one of two experts."""
    return {"experts": (x > 0).long().reshape(-1, 2), "priority": priority.reshape(-1)}


def take_slots(x: Tensor, priority: Tensor, **options) -> tuple[Tensor, Tensor, Tensor]:
    """Mark numbers with the slots, and slots with numbers, so that there is something to differentiate."""
    slots, choices = moe_slots(**slots_arguments(x, priority), **SLOTS, **options)
    return x * slots.view(x.shape), x.sum() * choices, priority


PAIRS = dict.fromkeys(("query", "key", "value", "output", "grad"), (5, 2, 4))


def gains_arguments(gates: Tensor, **tensors: Tensor) -> dict[str, Tensor]:
    """Switch on the first token and those with positive numbers."""
    return {**tensors, "gates": torch.cat([torch.ones_like(gates[:, :1]), (gates[:, 1:] > 0).to(gates)], 1)}


def take_gains(gates: Tensor, backend: str = "auto", **tensors: Tensor) -> tuple[Tensor, ...]:
    """Mark the gates, so that there is something to differentiate."""
    gains = key_gains(**gains_arguments(gates, **tensors), backend=backend)
    return gates * gains, *tensors.values()


OPERATORS = {
    "bidirectional_gla": Operator(
        scan,
        {
            "query": (5, 2, 16),
            "key": (5, 2, 16),
            "value": (5, 2, 32),
            "log_decay_forward": (5, 2, 16),
            "log_decay_backward": (5, 2, 16),
        },
        tolerance=1e-5,  # gradients of the decays are differences of sums over tokens
    ),
    "additive_gate": Operator(
        additive_gate,
        {"x": (3, 5, 4), "gating": (6, 5, 4)},
        {"weight_x": (7, 3), "weight_gating": (7, 6), "bias": (7,), "psi": (7,), "psi_bias": (1,)},
        tolerance=4e-6,
    ),
    "bias_gelu": Operator(bias_gelu, {"x": (5, 13)}, {"bias": (13,)}),
    "bias_gelu_linear": Operator(
        bias_gelu_linear, {"x": (5, 13)}, {"x_bias": (13,), "weight": (7, 13), "bias": (7,)}, tolerance=4e-6
    ),
    "layer_norm": Operator(layer_norm, {"x": (5, 13)}, {"weight": (13,), "bias": (13,)}),
    "add_layer_norm": Operator(
        add_layer_norm, {"x": (5, 13), "residual": (5, 13)}, {"scale": (13,), "weight": (13,), "bias": (13,)}
    ),
    "recursive_gate": Operator(
        recursive_gate, {"x": (5, 3), "gates": (5, 9)}, {"weight": (18,), "bias": (6,)}, tolerance=4e-6
    ),
    "depthwise_conv2d": Operator(depthwise_conv2d, {"x": (3, 4, 13)}, {"weight": (13, 1, 3, 3), "bias": (13,)}),
    "filter_spectrum": Operator(
        filter_maps,
        {"x": (3, 4, 13)},
        {"weight": (13, 3, 3, 2)},
        tolerance=4e-3,  # of float16
        arguments=filter_arguments,
    ),
    "gated_activation": Operator(gated_activation, {"x": (6, 5, 3)}, {"bias": (6,)}, tolerance=4e-6),
    "rms_norm": Operator(rms_norm, {"x": (5, 13)}, {"weight": (13,)}),
    "add_rms_norm": Operator(add_rms_norm, {"x": (5, 13), "residual": (5, 13)}, {"weight": (13,)}),
    "gated_norm_mix": Operator(
        partial(gated_norm_mix, activation="silu"),
        {"global_branch": (5, 2, 13), "local_branch": (5, 2, 13), "gate": (5, 2, 13)},
        {"global_weight": (13,), "local_weight": (13,)},
    ),
    "swiglu": Operator(swiglu, {"x": (5, 26)}),
    "swiglu_mlp": Operator(swiglu_mlp, {"x": (5, 13)}, {"weight_in": (14, 13), "weight_out": (11, 7)}, tolerance=4e-6),
    "spatial_decomposition": Operator(spatial_decomposition, {"x": (2, 3, 13)}, {"scale": (13,)}),
    "gated_product": Operator(gated_product, {"gate": (5, 13), "value": (5, 13)}),
    "gated_product_linear": Operator(
        gated_product_linear, {"gate": (5, 13), "value": (5, 13)}, {"weight": (7, 13), "bias": (7,)}
    ),
    "moe_dispatch": Operator(dispatch, {"x": (5, 13)}, arguments=dispatch_arguments),
    "moe_combine": Operator(combine, {"x": (5, 13), "gates": (5, 2)}, arguments=combine_arguments),
    "moe_slots": Operator(take_slots, {"x": (5, 2), "priority": (5,)}, arguments=slots_arguments, options=SLOTS),
    "top_k_gates": Operator(choose, {"logits": (5, 7)}, options={"num_selected": 3}),
    "wide_linear": Operator(wide_linear, {"x": (5, 13)}, {"weight": (7, 13)}, tolerance=4e-6),
    "gather_tokens": Operator(gather, {"x": (5, 13)}, arguments=gather_arguments),
    "key_gains": Operator(take_gains, {**PAIRS, "gates": (5,)}, arguments=gains_arguments, tolerance=1e-5),
    "scatter_tokens": Operator(scatter, {"x": (5, 13)}, arguments=scatter_arguments),
    "channel_aggregation": Operator(
        channel_aggregation, {"x": (5, 13)}, {"common_weight": (13,), "common_bias": (1,), "scale": (13,)}
    ),
    "channel_aggregation_linear": Operator(
        channel_aggregation_linear,
        {"x": (5, 13)},
        {"common_weight": (13,), "common_bias": (1,), "scale": (13,), "weight": (7, 13), "bias": (7,)},
    ),
}

# Code for kernels can only be generated where there is a GPU to run them.
COMPILERS = ["aot_eager", "inductor"] if torch.cuda.is_available() else ["aot_eager"]

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "half of a wider tensor": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
    "spread channels": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "channels first": lambda x: x.movedim(-1, 0).contiguous().movedim(0, -1),
    "tokens before batch": lambda x: x.transpose(0, -2).contiguous().transpose(0, -2) if x.ndim > 1 else x,
    "one image repeated": lambda x: x[:1].expand_as(x) if x.ndim > 1 else x,
}


@pytest.fixture(params=OPERATORS)
def name(request) -> str:
    return request.param


@pytest.fixture
def call(name) -> Callable:
    return OPERATORS[name].call


@pytest.fixture
def inputs_of(name, make_inputs) -> Callable[[int], dict[str, Tensor]]:
    """Random inputs for a batch of the given size."""
    operator = OPERATORS[name]
    return lambda batch: make_inputs({n: (batch, *s) for n, s in operator.batched.items()} | operator.weights)


@pytest.fixture
def agrees(name, assert_agrees) -> Callable[[Callable, dict[str, Tensor]], None]:
    return partial(assert_agrees, tolerance=OPERATORS[name].tolerance)


def outputs(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(layout, call, inputs_of, agrees):
    strided = {n: LAYOUTS[layout](x) for n, x in inputs_of(3).items()}
    assert not all(x.is_contiguous() for x in strided.values())
    agrees(call, strided)


def test_empty_batch(call, inputs_of, agrees):
    agrees(call, inputs_of(0))


def test_twice_in_one_graph(call, inputs_of, agrees):
    def twice(backend, **inputs):
        results = [call(**{n: factor * x for n, x in inputs.items()}, backend=backend) for factor in (1, 2)]
        return tuple(a + b for a, b in zip(*map(outputs, results), strict=True))

    agrees(twice, inputs_of(2))


def test_gradient_of_a_plain_sum(call, inputs_of, agrees):
    """The gradient that arrives is then a single number with strides of zero."""
    agrees(lambda **inputs: sum(y.sum() for y in outputs(call(**inputs))), inputs_of(2))


def test_checkpointing(call, inputs_of, agrees):
    agrees(partial(checkpoint, call, use_reentrant=False), inputs_of(2))


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiles_to_one_graph(dynamic, compiler, call, inputs_of, agrees):
    torch.compiler.reset()
    agrees(torch.compile(call, fullgraph=True, dynamic=dynamic, backend=compiler), inputs_of(2))


def test_automatic_choice_compiles_to_one_graph(call, inputs_of):
    torch.compiler.reset()
    inputs = inputs_of(2)
    compiled = torch.compile(lambda **x: call(**x), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**inputs), call(**inputs), rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_autocast_changes_nothing(backend, call, inputs_of, device):
    inputs = inputs_of(2)
    expected = call(**inputs, backend=backend)
    with torch.autocast(device.type, torch.bfloat16):
        torch.testing.assert_close(call(**inputs, backend=backend), expected, rtol=0, atol=0)


def test_registration(name, inputs_of):
    """Torch's own checks: schema, shape inference, autograd and tracing with unknown sizes."""
    operator = getattr(torch.ops.gatedvision, name).default
    options = {"double": False, "eps": 1e-6, "activation": "silu", "act": "elu", "approximate": "tanh"}
    options |= {"scale": 1.0, "dilation": 1} | OPERATORS[name].options
    inputs = OPERATORS[name].arguments(**inputs_of(2))
    for x in inputs.values():
        x.requires_grad_(x.is_floating_point())
    arguments = [inputs[a.name] if a.name in inputs else options[a.name] for a in operator._schema.arguments]
    torch.library.opcheck(operator, tuple(arguments))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
def test_reference_is_scriptable(name, inputs_of):
    inputs = OPERATORS[name].arguments(**inputs_of(2)) | OPERATORS[name].options
    reference = getattr(gatedvision_kernels, f"{name}_reference")
    torch.testing.assert_close(torch.jit.script(reference)(**inputs), reference(**inputs), rtol=0, atol=0)


def test_shapes_on_meta_device(call, inputs_of):
    inputs = inputs_of(2)
    for y, y_meta in zip(
        outputs(call(**inputs)), outputs(call(**{n: x.to("meta") for n, x in inputs.items()})), strict=True
    ):
        assert (y.shape, y.dtype) == (y_meta.shape, y_meta.dtype)


def test_float64_takes_the_reference(call, inputs_of):
    inputs = {n: x.double() for n, x in inputs_of(2).items()}
    torch.testing.assert_close(call(**inputs), call(**inputs, backend="reference"), rtol=0, atol=0)
    with pytest.raises(ValueError, match="torch.float64"):
        call(**inputs, backend="triton")


def test_kernels_asked_for_in_vain(call, inputs_of, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    inputs = {n: x.cpu() for n, x in inputs_of(2).items()}
    with pytest.raises(ValueError, match=r"backend='triton' cannot run: tensors lie on \['cpu'\], not on cuda"):
        call(**inputs, backend="triton")
    with pytest.raises(ValueError, match="backend must be 'auto', 'triton' or 'reference', got 'cuda'"):
        call(**inputs, backend="cuda")


def test_every_public_operator_is_checked_here():
    operators = {
        n for n, f in inspect.getmembers(gatedvision_kernels, inspect.isfunction) if not n.endswith("_reference")
    }
    assert operators == set(OPERATORS)
