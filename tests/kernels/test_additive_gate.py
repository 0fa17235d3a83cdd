import pytest
import torch

from gatedvision_kernels import additive_gate, additive_gate_reference

ON_GPU = torch.cuda.is_available()
# Batch and grid, C, C_g and F: one of all; primes; more than a block of positions, of channels and of hidden features;
# a volume; and on a GPU levels of the networks that have this gate.
SHAPES = [
    ((2, 1, 1), 1, 1, 1),
    ((2, 5, 7), 3, 5, 2),
    ((1, 13, 10), 20, 33, 17),
    ((1, 3, 2), 65, 70, 129),
    ((2, 3, 5, 2), 6, 4, 3),
]
# Not the largest: among 500,000 hidden features ReLU sees one so close to 0 that float64 gives it another sign.
SHAPES += [((2, 64, 64), 64, 64, 32), ((1, 12, 12), 512, 512, 256), ((1, 40, 40, 24), 16, 16, 8)] * ON_GPU
LAST, FIRST = True, False


def in_order(x, last):
    """Return the same map with channels last, or first, in memory."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if last else x.contiguous()


def shapes_of(shape):
    (batch, *grid), dim, gating_dim, hidden = shape
    maps = {"x": (batch, dim, *grid), "gating": (batch, gating_dim, *grid)}
    return maps | {
        "weight_x": (hidden, dim),
        "weight_gating": (hidden, gating_dim),
        "bias": (hidden,),
        "psi": (hidden,),
        "psi_bias": (1,),
    }


@pytest.fixture
def gate_inputs(make_inputs):
    """Scale weights so that scores are of size 1 and gates neither open nor shut."""

    def make(shape, dtype=torch.float32, order=(FIRST, FIRST)):
        inputs = make_inputs(shapes_of(shape), torch.float64)
        for name in ("weight_x", "weight_gating", "psi"):
            inputs[name] /= inputs[name].shape[-1] ** 0.5
        for name, last in zip(("x", "gating"), order, strict=True):
            inputs[name] = in_order(inputs[name], last)
        return {name: x.to(dtype) for name, x in inputs.items()}

    return make


def test_reference_is_the_formula(gate_inputs):
    x, gating, weight_x, weight_gating, bias, psi, psi_bias = gate_inputs(SHAPES[1], torch.float64).values()
    y, attention = additive_gate_reference(x, gating, weight_x, weight_gating, bias, psi, psi_bias)
    assert y.shape == x.shape and attention.shape == (2, 1, 5, 7)
    for b, row, column in torch.cartesian_prod(torch.arange(2), torch.arange(5), torch.arange(7)).tolist():
        hidden = weight_x @ x[b, :, row, column] + weight_gating @ gating[b, :, row, column] + bias
        score = (psi * torch.where(hidden > 0, hidden, 0.0)).sum() + psi_bias
        share = 1 / (1 + (-score).exp())
        torch.testing.assert_close(attention[b, :, row, column], share, rtol=1e-13, atol=0)
        torch.testing.assert_close(y[b, :, row, column], share * x[b, :, row, column], rtol=1e-13, atol=0)


@pytest.mark.parametrize("shape", [SHAPES[1], SHAPES[4]], ids=str)
def test_reference_gradients(shape, gate_inputs):
    inputs = [x.requires_grad_() for x in gate_inputs(shape, torch.float64).values()]
    assert torch.autograd.gradcheck(additive_gate_reference, inputs, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("order", [(FIRST, FIRST), (LAST, LAST), (LAST, FIRST)], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_agrees(shape, order, dtype, gate_inputs, assert_agrees):
    inputs = gate_inputs(shape, dtype, order)
    assert_agrees(additive_gate, inputs, 1e-5 if dtype == torch.float32 else None)


@pytest.mark.parametrize("last", [FIRST, LAST])
def test_memory_order_of_x_is_kept(last, gate_inputs):
    inputs = gate_inputs(SHAPES[4], order=(last, not last))
    y, attention = additive_gate(**inputs, backend="triton")
    assert y.stride() == inputs["x"].stride() and attention.is_contiguous()


@pytest.mark.parametrize("frozen", [("x", "gating"), ("weight_x", "weight_gating", "bias", "psi", "psi_bias")])
def test_what_needs_no_gradient_gets_none(frozen, gate_inputs, assert_agrees):
    inputs = gate_inputs(SHAPES[1])
    fixed = {name: inputs.pop(name) for name in frozen}

    def call(backend, **free):
        return additive_gate(
            **free, **{n: x.to(next(iter(free.values())).dtype) for n, x in fixed.items()}, backend=backend
        )

    assert_agrees(call, inputs, 1e-5)


def test_parameters_keep_their_dtype(gate_inputs):
    inputs = {name: x.requires_grad_() for name, x in gate_inputs(SHAPES[1]).items()}
    x, gating = (inputs[name].detach().bfloat16().requires_grad_() for name in ("x", "gating"))
    y, attention = additive_gate(**(inputs | {"x": x, "gating": gating}), backend="triton")
    assert y.dtype == attention.dtype == torch.bfloat16
    parameters = list(inputs.values())[2:]
    gradients = torch.autograd.grad(y.float().sum() + attention.float().sum(), [x, gating, *parameters])
    assert [g.dtype for g in gradients] == 2 * [torch.bfloat16] + 5 * [torch.float32]


@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")  # of the interpreter
@pytest.mark.parametrize(("score", "share"), [(-1e4, 0.0), (1e4, 1.0)])
def test_saturated_gates_stay_finite(score, share, gate_inputs):
    inputs = gate_inputs(SHAPES[1])
    inputs["psi_bias"] = torch.full_like(inputs["psi_bias"], score)
    x = inputs["x"].requires_grad_()
    y, attention = additive_gate(**inputs, backend="triton")
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(y, share * x)
    torch.testing.assert_close(attention, torch.full_like(attention, share))
    torch.testing.assert_close(gradient, torch.full_like(x, share))


def test_what_is_no_number_does_not_get_lost_in_relu(gate_inputs):
    inputs = gate_inputs(SHAPES[1])
    inputs["gating"][1, 2, 3, 4] = float("nan")
    y, attention = additive_gate(**inputs, backend="triton")
    assert attention.isnan().nonzero().tolist() == [[1, 0, 3, 4]] and y.isnan().sum() == 3


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"x": (2, 3)}, r"x must be floating point \[B, C, ...\] with C > 0, got torch.float32 \(2, 3\)"),
        ({"x": (2, 0, 5, 7)}, r"with C > 0, got torch.float32 \(2, 0, 5, 7\)"),
        ({"gating": (2, 5, 5, 6)}, r"on the grid of x \(2, 3, 5, 7\), C_g > 0, got \(2, 5, 5, 6\)"),
        ({"gating": (1, 5, 5, 7)}, r"on the grid of x \(2, 3, 5, 7\), C_g > 0, got \(1, 5, 5, 7\)"),
        ({"weight_x": (2, 4)}, r"weight_x must be floating point \[2, 3\], .* got torch.float32 \(2, 4\)"),
        ({"weight_x": ()}, r"weight_x must be floating point \[0, 3\], .* got torch.float32 \(\)"),
        ({"weight_gating": (3, 5)}, r"weight_gating must be floating point \[2, 5\]"),
        ({"bias": (3,)}, r"bias must be floating point \[2\]"),
        ({"psi": (1, 2)}, r"psi must be floating point \[2\], .* got torch.float32 \(1, 2\)"),
        ({"psi_bias": ()}, r"psi_bias must be floating point \[1\]"),
    ],
)
def test_bad_shapes_are_named(changes, message):
    inputs = {name: torch.ones(shape) for name, shape in (shapes_of(SHAPES[1]) | changes).items()}
    with pytest.raises(ValueError, match=message):
        additive_gate(**inputs)


@pytest.mark.parametrize(
    "name, dtype, message",
    [
        ("x", torch.int64, "x must be floating point"),
        ("gating", torch.bfloat16, "x and gating must be of one dtype, got torch.float32 and torch.bfloat16"),
        ("psi", torch.int64, r"psi must be floating point \[2\], .* got torch.int64"),
    ],
)
def test_bad_dtypes_are_named(name, dtype, message):
    inputs = {name: torch.ones(shape) for name, shape in shapes_of(SHAPES[1]).items()}
    inputs[name] = inputs[name].to(dtype)
    with pytest.raises(ValueError, match=message):
        additive_gate(**inputs)


def test_compiled_gradients_agree(gate_inputs, assert_agrees):
    torch.compiler.reset()
    inputs = gate_inputs(SHAPES[4], order=(LAST, LAST))
    assert_agrees(torch.compile(additive_gate, fullgraph=True, backend="aot_eager"), inputs, 1e-5)
