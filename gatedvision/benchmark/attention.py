"""Time bidirectional gated linear attention beside its peers, once it has been found right.

Shapes: B batch, L tokens, N heads, K query/key width, V value width.
"""

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from gatedvision.benchmark.correctness import check_errors, relative_error
from gatedvision.benchmark.report import DTYPES, Cell, Report, current_device
from gatedvision.benchmark.timing import note, time_call, time_replay
from gatedvision_kernels import bidirectional_gla, bidirectional_gla_reference

Operator = Callable[..., Tensor]

INPUTS = ("query", "key", "value", "log_decay_forward", "log_decay_backward")
SOFTMAX_WIDTH = 64


def benchmark_attention(
    batch: int = 128,
    tokens: int = 196,
    heads: int = 6,
    key_width: int = 32,
    value_width: int = 64,
    dtype: str = "bf16",
    bandwidth: float = 3.0,
    seconds: float = 0.5,
) -> Report:
    """Time the operator, two causal passes of ``fla`` where it is installed, and softmax attention.

    Each is timed as an eager user calls it and, on a GPU, as a replayed CUDA graph, with a cold cache. The floor is
    the time in which the memory reads and writes each tensor of gated linear attention once.

    Args:
        batch: B.
        tokens: L.
        heads: N.
        key_width: K.
        value_width: V.
        dtype: ``"bf16"``, ``"fp16"`` or ``"fp32"``, of all tensors.
        bandwidth: bandwidth of the memory, TB/s.
        seconds: time to spend on each measurement.

    Raises:
        ValueError: a size is not positive, or the operator's output or a gradient is wrong.
    """
    sizes = {"batch": batch, "tokens": tokens, "heads": heads, "key width": key_width, "value width": value_width}
    for name, size in {**sizes, "bandwidth": bandwidth, "seconds": seconds}.items():
        if size <= 0:
            raise ValueError(f"{name} must be positive, got {size}")
    widths = (key_width, key_width, value_width, key_width, key_width)
    inputs = random_inputs([(batch, tokens, heads, width) for width in widths], DTYPES[dtype])
    error = check_operator(bidirectional_gla, inputs)
    bytes_per_token = DTYPES[dtype].itemsize * torch.tensor(
        [4 * key_width + 2 * value_width, 8 * key_width + 3 * value_width]
    )
    forward, backward = (bytes_per_token * batch * tokens * heads / bandwidth / 1e9).tolist()
    floors = (forward, forward + backward)

    rows = _time_passes("gatedvision bidirectional_gla", bidirectional_gla, inputs, floors, error, seconds)
    rows += _time_fla(inputs, floors, seconds)
    softmax_heads = max(1, heads * value_width // SOFTMAX_WIDTH)
    softmax_inputs = random_inputs([(batch, softmax_heads, tokens, SOFTMAX_WIDTH)] * 3, DTYPES[dtype])
    name = f"softmax attention, {softmax_heads} heads of {SOFTMAX_WIDTH}"
    rows += _time_passes(name, F.scaled_dot_product_attention, softmax_inputs, None, None, seconds)
    return Report(f"{dtype}, {', '.join(f'{n} {s}' for n, s in sizes.items())}, floor at {bandwidth:g} TB/s", rows)


def random_inputs(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
    """Return normal tensors; the fourth and later ones are log-decays like those of ViG."""
    generator = torch.Generator(current_device()).manual_seed(0)
    tensors = [torch.randn(shape, generator=generator, device=generator.device) for shape in shapes]
    return [x.to(dtype) for x in tensors[:3]] + [(F.logsigmoid(x) / 16).to(dtype) for x in tensors[3:]]


def check_operator(operator: Operator, inputs: Sequence[Tensor]) -> float:
    """Compare output and gradients with the reference in float64, on the first and last sample of the batch.

    Args:
        operator: what is compared, called on the whole batch.
        inputs: query, key, value and the two log-decays, ``[B, L, N, K or V]``, of one dtype.

    Returns:
        The error of the output, relative to its size.

    Raises:
        ValueError: an error is above the limit of the dtype.
    """
    samples = sorted({0, len(inputs[0]) - 1})
    doutput = random_inputs([tuple(inputs[2].shape)], inputs[2].dtype)[0]
    actual = _output_and_gradients(operator, inputs, doutput)
    wide = [x[samples].double() for x in inputs]
    expected = _output_and_gradients(bidirectional_gla_reference, wide, doutput[samples].double())
    names = ("output", *(f"gradient of {name}" for name in INPUTS))
    return check_errors(names, [x[samples] for x in actual], expected)


def _output_and_gradients(operator: Operator, inputs: Sequence[Tensor], doutput: Tensor) -> tuple[Tensor, ...]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    output = operator(*leaves)
    return output.detach(), *torch.autograd.grad(output, leaves, doutput)


def _time_fla(inputs: Sequence[Tensor], floors: tuple[float, float], seconds: float) -> list[dict[str, Cell]]:
    """Time two causal passes of ``fla`` over flipped copies; no rows where it is missing or does not run."""
    if find_spec("fla") is None or not torch.cuda.is_available():
        return []
    try:
        operator = partial(_two_passes, importlib.import_module("fla.ops.gla").chunk_gla)
        query, key, value, forward, backward = (x[:1].double() for x in inputs)
        expected = bidirectional_gla_reference(query, key, value, forward, backward)
        error = relative_error(operator(*inputs)[:1], expected)
        return _time_passes("fla chunk_gla, two passes", operator, inputs, floors, error, seconds)
    except Exception as error:  # whatever a package raises that does not fit this torch, triton or GPU
        note("fla", error)
        return []


def _two_passes(
    chunk_gla: Callable, query: Tensor, key: Tensor, value: Tensor, forward: Tensor, backward: Tensor
) -> Tensor:
    scale = query.shape[3] ** -0.5
    rightward, _ = chunk_gla(query, key, value, forward, scale=scale)
    leftward, _ = chunk_gla(query.flip(1), key.flip(1), value.flip(1), backward.flip(1), scale=scale)
    return (rightward + leftward.flip(1)) / 2


def _time_passes(
    name: str,
    operator: Operator,
    inputs: Sequence[Tensor],
    floors: tuple[float, float] | None,
    error: float | None,
    seconds: float,
) -> list[dict[str, Cell]]:
    """Return a row for the forward pass and one for forward and backward pass."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    doutput = torch.randn_like(operator(*inputs))

    @torch.no_grad()
    def forward() -> None:
        operator(*leaves)

    def forward_and_backward() -> None:
        torch.autograd.grad(operator(*leaves), leaves, doutput)

    rows = []
    for index, (which, call) in enumerate({"forward": forward, "forward + backward": forward_and_backward}.items()):
        eager = time_call(call, doutput.device, seconds, flush=True)
        replayed = time_replay(f"{name}, {which}", call, seconds) if doutput.is_cuda else None
        floor = floors[index] if floors else None
        row: dict[str, Cell] = {"operator": name, "pass": which}
        row["eager ms (20–80 %)"] = eager
        row["CUDA graph ms (20–80 %)"] = replayed
        row["floor ms"] = floor
        row["times the floor"] = (replayed or eager).median / floor if floor else None
        row["roofline (%)"] = 100 * floor / (replayed or eager).median if floor else None
        row["output error"] = error
        rows.append(row)
    return rows
