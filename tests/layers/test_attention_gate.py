"""Attention gates beside golden records and a second formula, and what they do with maps that published code cannot."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedvision.layers import GridAttentionGate, SameGridAttentionGate, attention_gate
from gatedvision.layers.attention_gate import WEIGHTINGS, weigh_positions
from gatedvision_kernels import additive_gate
from tests.golden.golden import draw_input, find_records
from tests.layers.memory_layout import channels_last_outputs

(RECORD,) = (record for record in find_records("attention_unet") if record.name == "attention_gate_op")
SONO = {"subsample": 1, "weighting": "mean_flow", "strided_gating": True, "transform": False}
# Case -> class, its arguments, shapes of x and the gating signal.
RECORDED = {
    "grid3d": (GridAttentionGate, {"spatial_dims": 3}, (6, 10, 6), (1, 6, 4, 4, 6), (1, 10, 2, 2, 3)),
    "grid2d_oddgrid": (GridAttentionGate, {}, (4, 8, 4), (2, 4, 12, 10), (2, 8, 3, 2)),
    "sono_mean_flow": (GridAttentionGate, SONO, (4, 8, 8), (2, 4, 9, 8), (2, 8, 4, 4)),
    "popular2d": (SameGridAttentionGate, {}, (8, 8, 4), (2, 8, 7, 6), (2, 8, 7, 6)),
    "monai2d": (SameGridAttentionGate, {}, (8, 8, 4), (2, 8, 7, 6), (2, 8, 7, 6)),
}
OWN_NAMES = {"theta": "proj_x.conv", "phi": "proj_gating.conv", "W.0": "proj_out.conv", "W.1": "proj_out.norm"}
SAME_GRID_NAMES = {"W_x": "proj_x", "W_g": "proj_gating", "psi": "psi"}


def own_name(case: str, name: str) -> str:
    part, _, leaf = name.removeprefix(f"{case}.").replace(".0.conv.", ".0.").rpartition(".")
    if case in ("popular2d", "monai2d"):
        begin, _, index = part.partition(".")
        return f"{SAME_GRID_NAMES[begin]}.{('conv', 'norm')[int(index)]}.{leaf}"
    return f"{OWN_NAMES.get(part, 'psi.conv')}.{leaf}"


def random_gate(make: type[Any] = GridAttentionGate, *args: Any, **kwargs: Any) -> Any:
    """Return a gate in eval mode, float64, none of whose parameters is what it starts from."""
    torch.manual_seed(0)
    gate = make(*args, dtype=torch.float64, **kwargs).eval()
    with torch.no_grad():
        for name, value in gate.state_dict().items():
            if value.is_floating_point():
                value.uniform_(0.5, 1.5) if name.endswith("running_var") else value.normal_(std=0.7)
    return gate


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("case", "aligned"),
    [(case, aligned) for case in RECORDED for aligned in (False, True) if "2d" not in case[-2:] or not aligned],
)
def test_record(case: str, aligned: bool, dtype: torch.dtype) -> None:
    make, options, dims, x_shape, gating_shape = RECORDED[case]
    if issubclass(make, GridAttentionGate):
        options = {**options, "align_corners": aligned}
    gate = make(*dims, dtype=dtype, **options).eval()
    weights = {own_name(case, k): v for k, v in RECORD.weights(dtype).items() if k.startswith(f"{case}.")}
    gate.load_state_dict(weights)
    x, gating = draw_input(*x_shape, seed=1).to(dtype), draw_input(*gating_shape, seed=2).to(dtype)
    y, attention = gate(x=x, gating=gating, return_attention=True)
    assert torch.equal(gate(x=x, gating=gating), y) and attention.shape == (x.shape[0], 1, *x.shape[2:])
    expected = RECORD.arrays()
    suffix = "_align_corners" if aligned else ""
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    for name, actual in (("y", y), ("att", attention)):
        if f"{case}.{name}{suffix}" in expected:
            values = expected[f"{case}.{name}{suffix}"]
            torch.testing.assert_close(actual.double(), values, rtol=0, atol=tolerance * float(values.abs().max()))


def test_grid_gate_position_by_position() -> None:
    gate = random_gate(GridAttentionGate, 3, 5, 4, softplus=True)
    x, gating = draw_input(2, 3, 6, 4), draw_input(2, 5, 3, 2, seed=1)
    state = {name: value.squeeze() for name, value in gate.state_dict().items()}
    coarse = torch.empty(2, 1, 3, 2, dtype=torch.float64)
    for b, row, column in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(2)).tolist():
        patch = x[b, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        hidden = torch.einsum("ocij,cij->o", state["proj_x.conv.weight"], patch)
        hidden += state["proj_gating.conv.weight"] @ gating[b, :, row, column] + state["proj_gating.conv.bias"]
        score = state["psi.conv.weight"] @ hidden.exp().add(1).log() + state["psi.conv.bias"]
        coarse[b, 0, row, column] = 1 / (1 + (-score).exp())
    alpha = F.interpolate(coarse, scale_factor=2.0, mode="bilinear")
    y = torch.einsum("oc,bchw->bohw", state["proj_out.conv.weight"], alpha * x)
    norm = {leaf: state[f"proj_out.norm.{leaf}"].view(3, 1, 1) for leaf in ("weight", "bias", "running_mean")}
    y = y + state["proj_out.conv.bias"].view(3, 1, 1) - norm["running_mean"]
    y = y / (state["proj_out.norm.running_var"].view(3, 1, 1) + 1e-5).sqrt() * norm["weight"] + norm["bias"]
    actual, attention = gate(x=x, gating=gating, return_attention=True)
    torch.testing.assert_close(attention, alpha)
    torch.testing.assert_close(actual, y)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weightings(weighting: str) -> None:
    q = draw_input(2, 1, 3, 5)
    for sample, weights in zip(q, weigh_positions(q, weighting), strict=True):
        low, high = float(sample.min()), float(sample.max())
        expected = {
            "sigmoid": 1 / (1 + (-sample).exp()),
            "softmax": sample.exp() / sample.exp().sum(),
            "mean": sample / sample.sum(),
            "mean_flow": (sample - low) / (sample.sum() - 15 * low),
            "range": (sample - low) / (high - low),
        }[weighting]
        torch.testing.assert_close(weights, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_constant_maps(weighting: str, dtype: torch.dtype) -> None:
    for value, shape in ((2.0, (2, 1, 3, 4)), (0.0, (2, 1, 3, 4)), (-3.0, (1, 1, 1, 1)), (0.0, (1, 1, 2, 2, 2))):
        q = torch.full(shape, value, dtype=dtype, requires_grad=True)
        weights = weigh_positions(q, weighting)
        (gradient,) = torch.autograd.grad(weights.square().sum(), q)
        assert gradient.isfinite().all() and weights.dtype == dtype and weights.shape == shape
        if weighting == "range":
            assert (weights == 1).all()
        elif weighting != "sigmoid":
            total = weights.float().sum((2, 3) if q.ndim == 4 else (2, 3, 4))
            torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-2, atol=0)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_gradients_of_weightings(weighting: str) -> None:
    q = draw_input(2, 1, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda q: weigh_positions(q, weighting), (q,))


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("make", [GridAttentionGate, SameGridAttentionGate])
def test_gradients(make: type[Any], spatial_dims: int) -> None:
    gate = random_gate(make, 2, 3, spatial_dims=spatial_dims).train()
    fine, coarse = (4, 4, 2)[:spatial_dims], (2, 3, 1)[:spatial_dims]
    x = draw_input(2, 2, *fine).requires_grad_()
    gating = draw_input(2, 3, *(fine if make is SameGridAttentionGate else coarse), seed=1).requires_grad_()
    (gate(x=x, gating=gating) ** 2).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in gate.parameters())
    # A bias in front of a batch norm changes nothing in training.
    dead = {"proj_x.conv.bias", "proj_gating.conv.bias", "psi.conv.bias", "proj_out.conv.bias"}
    without = {name for name, p in gate.named_parameters() if p.grad.abs().max() < 1e-12}
    assert without <= dead
    assert torch.autograd.gradcheck(lambda x, g: gate.eval()(x=x, gating=g), (x, gating))


def test_arguments_go_by_name() -> None:
    gate = SameGridAttentionGate(2, 2)
    with pytest.raises(TypeError, match="positional"):
        gate(torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3))


@pytest.mark.parametrize(
    ("gate", "x", "gating", "message"),
    [
        (SameGridAttentionGate(2, 3), (1, 3, 4, 4), (1, 2, 4, 4), r"x must be \[B, 2, H, W\], got \(1, 3, 4, 4\)"),
        (SameGridAttentionGate(2, 3), (1, 2, 4, 4), (1, 2, 4, 4), r"gating must be \[B, 3, H, W\]"),
        (SameGridAttentionGate(2, 3), (1, 2, 4, 4), (1, 3, 2, 2), "must have one grid; resize gating first"),
        (GridAttentionGate(2, 3, spatial_dims=3), (1, 2, 4, 4), (1, 3, 2, 2), r"x must be \[B, 2, D, H, W\]"),
        (GridAttentionGate(2, 3), (1, 2, 4, 1), (1, 3, 2, 2), r"is smaller than subsample \(2, 2\); pad it"),
    ],
)
def test_bad_shapes_are_named(gate: nn.Module, x: Any, gating: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gate(x=torch.ones(x), gating=torch.ones(gating))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weighting": "tanh"}, "weighting must be one of sigmoid, softmax, mean, mean_flow, range, got 'tanh'"),
        ({"spatial_dims": 4}, "spatial_dims must be 2 or 3, got 4"),
        ({"subsample": (2, 2, 2)}, r"expected one number or 2, one for each axis, got \(2, 2, 2\)"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GridAttentionGate(2, 3, **options)


def test_initial_bias_of_the_score_and_default_width() -> None:
    gate = GridAttentionGate(7, 3, psi_bias=3.0, weighting="sigmoid")
    assert gate.psi.conv.bias.item() == 3.0 and gate.proj_x.conv.out_channels == 3
    assert GridAttentionGate(1, 3).proj_x.conv.out_channels == SameGridAttentionGate(1, 3).psi.conv.in_channels == 1


@pytest.mark.parametrize("weighting", ["sigmoid", "mean_flow"])
@pytest.mark.parametrize(("spatial_dims", "memory_format"), [(2, torch.channels_last), (3, torch.channels_last_3d)])
def test_16_bits_channels_last_and_compile(
    weighting: str, spatial_dims: int, memory_format: torch.memory_format
) -> None:
    torch._dynamo.reset()
    gate = random_gate(GridAttentionGate, 8, 6, spatial_dims=spatial_dims, weighting=weighting).float()
    x = draw_input(2, 8, *(6, 8, 4)[:spatial_dims]).float()
    gating = draw_input(2, 6, *(3, 4, 2)[:spatial_dims], seed=1).float()
    expected = gate(x=x, gating=gating, return_attention=True)
    compiled = torch.compile(gate, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x=x, gating=gating, return_attention=True), expected)
    gate.to(memory_format=memory_format)
    inputs = {"x": x.to(memory_format=memory_format), "gating": gating.to(memory_format=memory_format)}
    torch.testing.assert_close(gate(**inputs), expected[0], rtol=1e-4, atol=1e-5)
    narrow: Tensor = gate.bfloat16()(**{name: value.bfloat16() for name, value in inputs.items()})
    assert narrow.dtype == torch.bfloat16
    assert (narrow.float() - expected[0]).std() < 0.05 * expected[0].std()


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("make", [GridAttentionGate, SameGridAttentionGate])
def test_channels_last_stays_so(make: type[Any], spatial_dims: int) -> None:
    gate = make(8, 6, spatial_dims=spatial_dims)
    fine, coarse = (6, 8, 4)[:spatial_dims], (3, 4, 2)[:spatial_dims]
    gating = draw_input(2, 6, *(coarse if make is GridAttentionGate else fine)).float()
    found = channels_last_outputs(gate, spatial_dims, x=draw_input(2, 8, *fine).float(), gating=gating)
    assert len(found) >= 6 and all(found.values()), found


# The kernel runs on a GPU where there is one, and else in the interpreter.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Kernel:
    """Stands in for the operator: counts its calls, and runs the kernel in the interpreter or the definition."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.calls = 0

    def __call__(self, *args: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return additive_gate(*args, backend=self.backend)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Kernel:
    """Let gates choose as they do for tensors on a GPU, and in 16 bits, whose rounding the tests do without."""
    kernel = Kernel(getattr(request, "param", "triton"))
    monkeypatch.setattr(attention_gate, "use_triton", lambda backend, *tensors: True)
    monkeypatch.setattr(attention_gate, "autocast_dtype", lambda x: torch.bfloat16)
    monkeypatch.setattr(attention_gate, "additive_gate", kernel)
    return kernel


same_grid = partial(random_gate, SameGridAttentionGate, 5, 6, 3)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("last", [False, True])
def test_kernel_is_the_gate_in_evaluation(on_gpu: Kernel, spatial_dims: int, last: bool) -> None:
    gate = same_grid(spatial_dims=spatial_dims).float().to(DEVICE)
    layout = (torch.channels_last, torch.channels_last_3d)[spatial_dims - 2] if last else torch.contiguous_format
    grid = (4, 3, 2)[:spatial_dims]
    x = draw_input(2, 5, *grid).float().to(DEVICE, memory_format=layout).requires_grad_()
    gating = draw_input(2, 6, *grid, seed=1).float().to(DEVICE, memory_format=layout).requires_grad_()
    inputs = [x, gating, *gate.parameters()]
    actual = gate(x=x, gating=gating, return_attention=True)
    assert on_gpu.calls == 1 and actual[0].is_contiguous(memory_format=layout)
    seeds = [torch.randn_like(y) for y in actual]
    # By default convolutions on a GPU round float32 to TF32.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        expected = super(SameGridAttentionGate, gate).attend(x, gating)
        gradients = torch.autograd.grad(expected, inputs, seeds)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(torch.autograd.grad(actual, inputs, seeds), gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("part", ["psi", "psi.conv", "proj_x.norm"])
def test_parts_that_have_hooks_are_called(on_gpu: Kernel, part: str) -> None:
    gate = same_grid(spatial_dims=2).float()
    seen = []
    gate.get_submodule(part).register_forward_hook(lambda module, inputs, y: seen.append(y))
    gate(x=draw_input(2, 5, 4, 3).float(), gating=draw_input(2, 6, 4, 3, seed=1).float())
    assert len(seen) == 1 and on_gpu.calls == 0


@pytest.mark.parametrize("on_gpu", ["reference"], indirect=True)
@pytest.mark.parametrize("case", ["popular2d", "monai2d"])
def test_record_by_the_operator(on_gpu: Kernel, case: str) -> None:
    test_record(case, False, torch.float64)
    assert on_gpu.calls == 2


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace.*:FutureWarning")
def test_who_keeps_the_convolutions(on_gpu: Kernel) -> None:
    x, gating = draw_input(2, 5, 4, 3), draw_input(2, 6, 4, 3, seed=1)
    gate = same_grid().requires_grad_(False)
    batch_statistics = same_grid()
    batch_statistics.psi.norm = nn.BatchNorm2d(1, track_running_stats=False, dtype=torch.float64).eval()
    for plain in (same_grid().train(), batch_statistics):
        plain(x=x, gating=gating)
    for strict in (False, True):
        graph = str(torch.export.export(gate, (), {"x": x, "gating": gating}, strict=strict).graph)
        assert "conv2d" in graph and "additive_gate" not in graph
    traced: Any = torch.jit.trace(lambda x, gating: gate(x=x, gating=gating), (x, gating), check_trace=False)
    assert "convolution" in str(traced.graph)
    assert on_gpu.calls == 0
    frozen = same_grid().train()
    for layer in (frozen.proj_x, frozen.proj_gating, frozen.psi):
        layer.norm.eval()
    on_gpu.backend = "reference"
    torch.testing.assert_close(frozen(x=x, gating=gating), gate(x=x, gating=gating))
    assert on_gpu.calls == 2


def test_kernel_compiles_to_one_graph(on_gpu: Kernel) -> None:
    torch._dynamo.reset()
    gate = same_grid().float().to(DEVICE)
    x, gating = draw_input(2, 5, 4, 3).float().to(DEVICE), draw_input(2, 6, 4, 3, seed=1).float().to(DEVICE)
    graphs: list[str] = []

    def record(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(str(graph.graph))
        return graph.forward

    compiled = torch.compile(gate, backend=record, fullgraph=True)
    torch.testing.assert_close(compiled(x=x, gating=gating), super(SameGridAttentionGate, gate).attend(x, gating)[0])
    assert len(graphs) == 1 and "additive_gate" in graphs[0] and "conv2d" not in graphs[0]


def test_kernel_takes_the_dtype_of_autocast(on_gpu: Kernel) -> None:
    gate = same_grid().float().to(DEVICE)
    x, gating = draw_input(2, 5, 4, 3).float().to(DEVICE), draw_input(2, 6, 4, 3, seed=1).float().to(DEVICE)
    expected = gate(x=x, gating=gating, return_attention=True)
    with torch.autocast(DEVICE, torch.bfloat16):
        actual = gate(x=x, gating=gating, return_attention=True)
    narrow = gate.bfloat16()(x=x.bfloat16(), gating=gating.bfloat16(), return_attention=True)
    assert on_gpu.calls == 3
    for y, wide in zip((*actual, *narrow), expected * 2, strict=True):
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), wide, rtol=0.05, atol=0.05)


def test_float32_keeps_the_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_gate, "use_triton", lambda backend, *tensors: True)
    x, gating = draw_input(2, 5, 4, 3).float(), draw_input(2, 6, 4, 3, seed=1).float()
    assert not attention_gate.takes_kernel(x, gating)
    assert attention_gate.takes_kernel(x.half(), gating.half())
    with torch.autocast("cpu", torch.bfloat16):
        assert attention_gate.takes_kernel(x, gating)


def test_nothing_changes_on_the_cpu() -> None:
    gate = same_grid()
    x, gating = draw_input(2, 5, 4, 3), draw_input(2, 6, 4, 3, seed=1)
    assert torch.equal(gate(x=x, gating=gating), super(SameGridAttentionGate, gate).attend(x, gating)[0])
    assert not attention_gate.takes_kernel(x.float(), gating.float())
    assert not attention_gate.takes_kernel(x.to("meta"), gating.to("meta"))
