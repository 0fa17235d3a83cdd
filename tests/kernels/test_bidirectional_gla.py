"""Bidirectional gated linear attention: the definition against recurrences and records, the kernels against it."""

from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gatedvision_kernels import bidirectional_gla, bidirectional_gla_reference
from gatedvision_kernels._tuning import override
from tests.golden.golden import Record, draw_input, find_records

# The package has attributes of the modules' names.
reference = import_module("gatedvision_kernels.bidirectional_gla.reference")
_segments = import_module("gatedvision_kernels.bidirectional_gla._segments")

NAMES = ("query", "key", "value", "log_decay_forward", "log_decay_backward")
# Names of the same tensors, and of their gradients behind a d, in the records.
SHORT = dict(zip(NAMES, ("q", "k", "v", "gf", "gb"), strict=True))
ON_GPU = torch.cuda.is_available()


def recurrence(query: Tensor, key: Tensor, value: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """The operator token by token, as the paper writes it: one state a direction."""
    length = query.shape[1]

    def scan(tokens: range, log_decay: Tensor) -> dict[int, Tensor]:
        state = torch.zeros_like(key[:, 0, :, :, None] * value[:, 0, :, None, :])
        outputs = {}
        for i in tokens:
            state = log_decay[:, i].exp()[..., None] * state + key[:, i, :, :, None] * value[:, i, :, None, :]
            outputs[i] = (query[:, i, :, :, None] * state).sum(-2)
        return outputs

    left, right = scan(range(length), forward), scan(range(length - 1, -1, -1), backward)
    return torch.stack([left[i] + right[i] for i in range(length)], 1) / 2 * query.shape[-1] ** -0.5


def draw(
    shape: tuple[int, int, int, int, int],
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    gain: float = 1.0,
    divisor: float = 16.0,
) -> dict[str, Tensor]:
    """Random arguments for (B, L, N, K, V); log-decays are logsigmoid(gain * x) / divisor, as in ViG by default."""
    batch, length, heads, width, value_width = shape
    generator = torch.Generator().manual_seed(0)
    sizes = dict.fromkeys(NAMES, width) | {"value": value_width}
    tensors = {
        n: torch.randn(batch, length, heads, d, generator=generator, dtype=torch.float64) for n, d in sizes.items()
    }
    for name in NAMES[3:]:
        tensors[name] = F.logsigmoid(gain * tensors[name]) / divisor
    return {name: x.to(device, dtype) for name, x in tensors.items()}


def outputs_and_gradients(call, tensors: dict[str, Tensor], doutput: Tensor) -> dict[str, Tensor]:
    leaves = {name: x.detach().requires_grad_() for name, x in tensors.items()}
    output = call(**leaves)
    gradients = torch.autograd.grad(output, list(leaves.values()), doutput.to(output))
    return {"o": output.detach()} | {f"d{SHORT[n]}": g for n, g in zip(NAMES, gradients, strict=True)}


def assert_near(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Compare with a tolerance relative to each tensor's own root mean square; name the tensor that is off."""
    for name, value in expected.items():
        scale = value.double().square().mean().sqrt().item() or 1.0
        error = (actual[name].double() - value.double()).abs().max().item()
        assert error <= tolerance * scale, f"{name}: off by {error:.2e}, that is {error / scale:.2e} of its size"


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 37, 70])
def test_reference_is_the_recurrence(length):
    tensors = draw((2, length, 2, 3, 5), torch.float64)
    doutput = draw_input(2, length, 2, 5)
    expected = outputs_and_gradients(lambda **x: recurrence(*x.values()), tensors, doutput)
    assert_near(outputs_and_gradients(bidirectional_gla_reference, tensors, doutput), expected, 1e-12)


def test_reference_gradients():
    tensors = [x.requires_grad_() for x in draw((1, 18, 1, 2, 3), torch.float64).values()]
    assert torch.autograd.gradcheck(bidirectional_gla_reference, tensors)


@pytest.mark.parametrize(("total", "by_quotients"), [(-31.9, True), (-32.1, False), (-1e4, False)])
def test_reference_on_either_side_of_quotients(monkeypatch, total, by_quotients):
    """A chunk that decays by as much as quotients bear, or more, beside weak ones; the tokens of one decay at once."""
    tensors = draw((1, 70, 2, 16, 32), torch.float64)
    for name in NAMES[3:]:
        tensors[name][:, 32:64, 0] = 0.0
        tensors[name][:, 40, 0] = total
    calls = []
    quotients = reference._weights_by_quotients
    monkeypatch.setattr(reference, "_weights_by_quotients", lambda *args: calls.append(1) or quotients(*args))
    doutput = torch.randn_like(tensors["value"])
    expected = outputs_and_gradients(lambda **x: recurrence(*x.values()), tensors, doutput)
    wide = outputs_and_gradients(bidirectional_gla_reference, tensors, doutput)
    narrow = {name: x.float() for name, x in tensors.items()}
    single = outputs_and_gradients(bidirectional_gla_reference, narrow, doutput.float())
    assert len(calls) == 2 * by_quotients
    for name in expected:
        torch.testing.assert_close(wide[name], expected[name], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(single[name].double(), expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_reference_never_looks_at_values_that_are_not_known():
    tensors = draw((2, 70, 2, 16, 32))
    expected = bidirectional_gla_reference(**tensors)
    batched = torch.vmap(lambda x: bidirectional_gla_reference(**{name: y[None] for name, y in x.items()})[0])
    traced = torch.jit.trace(bidirectional_gla_reference, tuple(tensors.values()))
    compiled = torch.compile(bidirectional_gla_reference, backend="eager", fullgraph=True)
    assert "aten::item" not in str(traced.inlined_graph)
    for actual in (batched(tensors), traced(*tensors.values()), compiled(**tensors)):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    # Recorded from weak decays, and right for strong ones, whose quotients overflow.
    strong = tensors | {name: 1000 * tensors[name] for name in NAMES[3:]}
    expected = bidirectional_gla_reference(**strong)
    assert bool(expected.isfinite().all())
    for actual in (traced(*strong.values()), compiled(**strong)):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert bidirectional_gla_reference(**{name: x.to("meta") for name, x in tensors.items()}).is_meta


def test_reference_memory_is_linear():
    """An L x L matrix at 16,384 tokens would take 1 GiB a head."""
    tensors = draw((1, 16384, 1, 16, 32))
    assert bidirectional_gla_reference(**tensors).isfinite().all()
    leaves = [x.requires_grad_() for x in tensors.values()]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        bidirectional_gla_reference(*leaves)
    assert max(saved) <= 16384 * 16 * 16


def record_inputs(record: Record, dtype: torch.dtype, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    def draw_one(facts: dict) -> Tensor:
        x = draw_input(*facts["golden_input"], seed=facts["seed"])
        if facts.get("map") == "logsigmoid":
            x = F.logsigmoid(facts["gain"] * x + facts["shift"]) / facts["divisor"]
        elif facts.get("map") == "constant":
            x = torch.full_like(x, facts["value"])
        return x.transpose(1, 2).to(device, dtype)

    inputs = record.facts["inputs"]
    return {name: draw_one(inputs[SHORT[name]]) for name in NAMES}, draw_one(inputs["do"])


@pytest.mark.parametrize("record", find_records("vig", "op"), ids=str)
@pytest.mark.parametrize(
    ("backend", "dtype", "tolerance"),
    [("reference", torch.float64, 1e-9), ("reference", torch.float32, 1e-4), ("triton", torch.float32, 1e-4)],
    ids=["reference-float64", "reference-float32", "triton-float32"],
)
def test_golden_record(record, backend, dtype, tolerance, device):
    tensors, doutput = record_inputs(record, dtype, device)
    actual = outputs_and_gradients(lambda **x: bidirectional_gla(**x, backend=backend), tensors, doutput)
    for name, expected in record.arrays().items():
        tensor, _, statistic = name.partition("_")
        if tensor == "loss":
            continue
        x = actual[tensor].transpose(1, 2).double().cpu()
        if statistic == "at":
            x = x[:, :, record.facts["positions"]]
        elif statistic:
            x = x.mean(2) if statistic == "mean" else x.square().mean((2, 3)).sqrt()
        # Gradients of the decays are exactly 0 in some records, and what is left of them there is rounding.
        scale = max(actual[tensor].double().square().mean().sqrt().item(), 1e-3)
        error = (x - expected).abs().max().item()
        assert error <= tolerance * scale, f"{name}: off by {error:.2e} at a size of {scale:.2e}"


SHAPES = [(1, 1, 1, 16, 32), (2, 17, 2, 16, 32), (1, 49, 1, 32, 64), (1, 131, 1, 16, 32)]
WIDTHS = [(1, 33, 1, k, v) for k in (16, 32, 64) for v in (32, 64, 128)]
REAL = [(2, 197, 3, 32, 64), (1, 196, 6, 16, 32), (2, 1025, 2, 32, 64), (1, 16384, 1, 32, 64)] if ON_GPU else []
# Largest error relative to the root mean square. Triton's interpreter cuts bfloat16 off instead of rounding it.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 5e-2 if ON_GPU else 1e-1}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES + REAL, ids=str)
def test_kernels_are_the_reference(shape, dtype, device):
    compare_with_reference(draw(shape, dtype, device), TOLERANCE[dtype])


@pytest.mark.parametrize("shape", WIDTHS, ids=str)
def test_every_width(shape, device):
    compare_with_reference(draw(shape, device=device), TOLERANCE[torch.float32])


@pytest.mark.parametrize(("gain", "divisor"), [(6.0, 1.0), (30.0, 1.0), (0.0, 1e30)])
def test_strong_gates_and_none(gain, divisor, device):
    """Steps down to exp(-90), sums far below the smallest float32, and no decay at all."""
    compare_with_reference(
        draw((1, 70, 1, 16, 32), device=device, gain=gain, divisor=divisor), TOLERANCE[torch.float32]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("total", [-44.0, -45.0])
def test_chunks_on_either_side_of_the_limit(total, dtype, device):
    """A chunk's decays are split at once down to exp(-44.4) and level by level below: here beside a weak chunk."""
    tensors = draw((1, 96, 2, 16, 32), dtype, device)
    for name in NAMES[3:]:
        tensors[name][:, 32:64, 0] = total / 32
    compare_with_reference(tensors, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("chunks", "gain"), [(1, 1.0), (2, 1.0), (1, 30.0)])
def test_segments(chunks, gain, dtype, device, monkeypatch):
    """A long sequence is cut: here a short one, into three or five segments, of which strong gates spare some."""
    monkeypatch.setattr(_segments, "MIN_CHUNKS", chunks)
    tensors = draw((1, 131, 2, 16, 32), dtype, device)
    for name in NAMES[3:]:
        tensors[name][:, 40:90, 1] *= gain
    with override(attention_programs=100):
        assert _segments.cut(2, 131, tensors["query"].device) == ({1: 5, 2: 3}[chunks], chunks)
        compare_with_reference(tensors, TOLERANCE[dtype])


def test_gates_of_their_own_dtype(device):
    tensors = draw((1, 40, 2, 16, 32), torch.bfloat16, device)
    tensors |= {name: tensors[name].float() for name in NAMES[3:]}
    compare_with_reference(tensors, TOLERANCE[torch.bfloat16])


def compare_with_reference(tensors: dict[str, Tensor], tolerance: float) -> None:
    doutput = draw_input(*tensors["value"].shape).to(tensors["value"])
    actual = outputs_and_gradients(lambda **x: bidirectional_gla(**x, backend="triton"), tensors, doutput)
    for name, x in (tensors | {"o": tensors["value"]}).items():
        produced = actual["o" if name == "o" else f"d{SHORT[name]}"]
        assert (produced.dtype, produced.shape) == (x.dtype, x.shape)
    wide = {name: x.double() for name, x in tensors.items()}
    assert_near(actual, outputs_and_gradients(bidirectional_gla_reference, wide, doutput), tolerance)


def test_eager_and_compiled_operator_agree(device):
    """The two doors to the kernels, with no compiler in between."""
    tensors = draw((1, 40, 2, 16, 32), device=device)
    doutput = draw_input(1, 40, 2, 32).to(device)
    eager = outputs_and_gradients(lambda **x: bidirectional_gla(**x, scale=0.3, backend="triton"), tensors, doutput)
    operator = torch.ops.gatedvision.bidirectional_gla
    compiled = outputs_and_gradients(lambda **x: operator(*x.values(), 0.3)[0], tensors, doutput)
    for name, x in eager.items():
        assert torch.equal(x, compiled[name]), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": (1, 4, 2)}, r"query must be \[B, L, N, K\] with at least one token, got \[1, 4, 2\]"),
        ({"query": (1, 0, 2, 16)}, r"at least one token, got \[1, 0, 2, 16\]"),
        ({"key": (1, 5, 2, 16)}, r"key must have the shape of query \[1, 4, 2, 16\], got \[1, 5, 2, 16\]"),
        ({"log_decay_backward": (1, 4, 2, 8)}, r"log_decay_backward must have the shape of query"),
        ({"value": (1, 4, 3, 32)}, r"value must be \[B, L, N, V\] beside query .*, got \[1, 4, 3, 32\]"),
    ],
)
def test_shapes_that_disagree(change, message):
    shapes = dict.fromkeys(NAMES, (1, 4, 2, 16)) | {"value": (1, 4, 2, 32)} | change
    with pytest.raises(ValueError, match=message):
        bidirectional_gla(**{name: torch.zeros(shape) for name, shape in shapes.items()})


def test_widths_without_kernels(device):
    tensors = draw((1, 4, 2, 8, 24), device=device)
    assert bidirectional_gla(**tensors).shape == (1, 4, 2, 24)
    with pytest.raises(ValueError, match=r"K in \(16, 32, 64\) and V in \(32, 64, 128\), got K=8 and V=24"):
        bidirectional_gla(**tensors, backend="triton")
