"""Time a layer of experts beside its peers, once all of them have been found right.

Shapes: T tokens, K choices of a token, Q slots of all experts, E experts, C channels of a token, F within an expert;
G groups of S tokens.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedvision.benchmark.correctness import check_errors
from gatedvision.benchmark.report import DTYPES, Cell, Report, current_device
from gatedvision.benchmark.timing import Spread, peak_memory, time_call, time_replay
from gatedvision.layers.moe import ExpertMlp, MoeMlp
from gatedvision.layers.moe_routers import TopKRouter
from gatedvision.layers.moe_routing import Routing

GROUP_IMAGES = 8


class Candidate(NamedTuple):
    """Something to time.

    Args:
        name: what it is.
        module: holds its parameters.
        run: maps the input to the output.
        x: the input.
        reference: the same in a plain form, for a copy of the module and an input, both in float64.
        has_fixed_sizes: no size follows from values, so that a CUDA graph can hold it.
    """

    name: str
    module: nn.Module
    run: Callable[[Tensor], Tensor]
    x: Tensor
    reference: Callable[[Any, Tensor], Tensor]
    has_fixed_sizes: bool = True


def benchmark_experts(
    images: int = 128,
    tokens: int = 197,
    width: int = 768,
    hidden: int = 3072,
    experts: int = 8,
    selected: int = 2,
    capacities: Sequence[float] = (1.05, 0.5),
    dtype: str = "bf16",
    seconds: float = 0.5,
) -> Report:
    """Time a layer of experts, its experts alone, and three peers for each capacity.

    The peers are a dense perceptron on as many rows as the experts have slots, which executes the same products; the
    same layer by torch's indexing and, in bfloat16, its grouped product, which computes no empty slots; and the same
    layer by products with one-hot masks. All but the dense one route by the same router, whose time is included.
    There is neither noise nor an auxiliary loss. Each is timed as an eager user calls it and, on a GPU, as a replayed
    CUDA graph where it can be one, with a cold cache. Memory is what a pass takes beside parameters and input.

    Args:
        images: images of the batch, routed in groups of 8.
        tokens: tokens of an image.
        width: C.
        hidden: F.
        experts: E.
        selected: K.
        capacities: capacity factors.
        dtype: ``"bf16"``, ``"fp16"`` or ``"fp32"``, of all parameters and tokens; routers compute in float32.
        seconds: time to spend on each measurement.

    Raises:
        ValueError: an argument is out of range, or an output or a gradient is wrong.
    """
    sizes = {"images": images, "tokens": tokens, "width": width, "hidden": hidden, "experts": experts}
    for name, size in {**sizes, "selected": selected, "seconds": seconds}.items():
        if size <= 0:
            raise ValueError(f"{name} must be positive, got {size}")
    if images % -(-images // GROUP_IMAGES):
        raise ValueError(f"images must make equal groups of up to {GROUP_IMAGES}, got {images}")
    torch.manual_seed(0)
    factory: Any = {"device": current_device(), "dtype": DTYPES[dtype]}
    x = torch.randn(images, tokens, width, **factory)
    rows: list[dict[str, Cell]] = []
    for capacity in capacities:
        router = TopKRouter(width, experts, selected, capacity, group_images=GROUP_IMAGES, **factory)
        layer = MoeMlp(router, ExpertMlp(width, hidden, experts, identical=False, **factory)).eval()
        dense_ms: dict[str, float] = {}
        for candidate in make_candidates(layer, x):
            error = check_candidate(candidate)
            for which, cells in _measure(candidate, seconds).items():
                ms = cells["eager ms (20–80 %)"].median
                row: dict[str, Cell] = {"layer": candidate.name, "capacity": float(capacity), "pass": which, **cells}
                row["times dense"] = ms / dense_ms.setdefault(which, ms)
                rows.append({**row, "output error": error})
    return Report(f"{dtype}, {', '.join(f'{n} {s}' for n, s in sizes.items())}, {selected} selected", rows)


def make_candidates(layer: MoeMlp, x: Tensor) -> list[Candidate]:
    """Return the dense perceptron, first, the layer, its experts alone and the layer's other forms.

    Args:
        layer: the layer, in evaluation.
        x: ``[B, N, C]``.
    """
    with torch.no_grad():
        routing, _ = layer.router(x)
    factory: Any = {"device": x.device, "dtype": x.dtype}
    num_experts, width, hidden = layer.experts.fc1.weight.shape
    dense = nn.Sequential(nn.Linear(width, hidden, **factory), nn.GELU("tanh"), nn.Linear(hidden, width, **factory))
    slots = torch.randn(num_experts, len(routing.choice_of_slot) // num_experts, width, **factory)

    def layer_by_definition(twin: MoeMlp, tokens: Tensor) -> Tensor:
        return by_definition(twin, tokens, routing)

    same = {"module": layer, "x": x, "reference": layer_by_definition}
    return [
        Candidate("dense perceptron", dense, dense, slots.flatten(0, 1), lambda twin, rows: twin(rows)),
        Candidate("gatedvision MoeMlp", run=layer, **same),
        Candidate("its experts alone", layer.experts, layer.experts, slots, experts_by_definition),
        Candidate("grouped_mm, torch indexing", run=lambda x: by_indexing(layer, x), **same, has_fixed_sizes=False),
        Candidate("einsum, one-hot masks", run=lambda x: by_einsum(layer, x), **same),
    ]


def by_indexing(layer: MoeMlp, x: Tensor) -> Tensor:
    """Compute the layer by torch's indexing and its grouped product, over the choices that have a slot."""
    routing, _ = layer.router(x)
    kept = routing.choice_of_slot[routing.choice_of_slot >= 0]
    tokens = kept // routing.gates.shape[1]
    counts = F.one_hot(routing.experts.flatten()[kept], layer.router.num_experts).sum(0)
    rows = x.flatten(0, 1)
    made = layer.experts(rows[tokens], counts.cumsum(0).to(torch.int32))
    weighted = routing.gates.flatten()[kept].unsqueeze(1) * made
    # The sum is in the dtype of the gates, as it is in the layer.
    return weighted.new_zeros(rows.shape).index_add(0, tokens, weighted).to(x.dtype).view(x.shape)


def by_einsum(layer: MoeMlp, x: Tensor) -> Tensor:
    """Compute the layer by masks ``[G, S, E, capacity]``, through which tokens go in and out."""
    routing, _ = layer.router(x)
    num_experts, capacity = layer.router.num_experts, routing.capacity
    num_groups = len(routing.choice_of_slot) // (num_experts * capacity)
    tokens = x.flatten(0, 1).unflatten(0, (num_groups, -1))
    slots, experts, gates = (
        by_choice.unflatten(0, (num_groups, -1))
        for by_choice in (routing.slot_of_choice, routing.experts, routing.gates)
    )
    kept = slots >= 0
    # Slots are ordered by expert, then group; masks have no groups within an expert.
    places = torch.where(kept, experts * capacity + slots % capacity, 0)
    empty = x.new_zeros(*tokens.shape[:2], num_experts * capacity)
    dispatch = empty.scatter_add(2, places, kept.to(x.dtype)).unflatten(2, (num_experts, capacity))
    combine = empty.scatter_add(2, places, (gates * kept).to(x.dtype)).unflatten(2, (num_experts, capacity))
    buffers = torch.einsum("gsec,gsd->egcd", dispatch, tokens)
    made = layer.experts(buffers.flatten(1, 2)).unflatten(1, (num_groups, capacity))
    return torch.einsum("gsec,egcd->gsd", combine, made).reshape(x.shape)


def by_definition(layer: MoeMlp, x: Tensor, routing: Routing) -> Tensor:
    """Sum what each expert makes of the tokens that have one of its slots, times their gates."""
    rows = x.flatten(0, 1)
    gates = layer.router.logits(x).softmax(-1).flatten(0, 1)
    y = torch.zeros_like(rows)
    for expert in range(layer.router.num_experts):
        kept = ((routing.experts == expert) & (routing.slot_of_choice >= 0)).any(1).nonzero().squeeze(1)
        made = _one_expert(layer.experts, expert, rows[kept])
        y = y.index_add(0, kept, gates[kept, expert].unsqueeze(1) * made)
    return y.view(x.shape)


def experts_by_definition(experts: ExpertMlp, slots: Tensor) -> Tensor:
    """Compute expert after expert, ``[E, R, C]``."""
    return torch.stack([_one_expert(experts, index, rows) for index, rows in enumerate(slots)])


def _one_expert(experts: ExpertMlp, index: int, rows: Tensor) -> Tensor:
    first, second = experts.fc1, experts.fc2
    return experts.act(rows @ first.weight[index] + first.bias[index]) @ second.weight[index] + second.bias[index]


def check_candidate(candidate: Candidate) -> float:
    """Compare output and gradients with the reference in float64.

    Returns:
        The error of the output, relative to its size.

    Raises:
        ValueError: an error is above the limit of the dtype.
    """
    dy = torch.randn_like(candidate.run(candidate.x))
    twin = copy.deepcopy(candidate.module).double()
    actual = _output_and_gradients(candidate.run, candidate.module, candidate.x, dy)
    wide = (twin, candidate.x.double(), dy.double())
    expected = _output_and_gradients(lambda x: candidate.reference(twin, x), *wide)
    parts = ["output", "gradient of x", *(f"gradient of {name}" for name, _ in candidate.module.named_parameters())]
    return check_errors([f"{part} of {candidate.name}" for part in parts], actual, expected)


def _output_and_gradients(
    run: Callable[[Tensor], Tensor], module: nn.Module, x: Tensor, dy: Tensor
) -> tuple[Tensor, ...]:
    leaves = [x.detach().requires_grad_(), *module.parameters()]
    y = run(leaves[0])
    return y.detach(), *torch.autograd.grad(y, leaves, dy)


def _measure(candidate: Candidate, seconds: float) -> dict[str, dict[str, Any]]:
    """Return time and memory of a forward pass, and of forward and backward pass."""
    leaves = [candidate.x.detach().requires_grad_(), *candidate.module.parameters()]
    dy = torch.randn_like(candidate.run(candidate.x))

    @torch.no_grad()
    def forward() -> None:
        candidate.run(leaves[0])

    def forward_and_backward() -> None:
        torch.autograd.grad(candidate.run(leaves[0]), leaves, dy)

    measured = {}
    for which, call in {"forward": forward, "forward + backward": forward_and_backward}.items():
        replayed: Spread | None = None
        if dy.is_cuda and candidate.has_fixed_sizes:
            replayed = time_replay(f"{candidate.name}, {which}", call, seconds)
        measured[which] = {
            "eager ms (20–80 %)": time_call(call, dy.device, seconds, flush=True),
            "CUDA graph ms (20–80 %)": replayed,
            "peak memory (MiB)": peak_memory(call) if dy.is_cuda else None,
        }
    return measured
