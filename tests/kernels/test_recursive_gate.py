from functools import partial

import pytest
import torch
import torch.nn.functional as F

from gatedvision_kernels import recursive_gate, recursive_gate_reference

# A single product; one row; primes; one row over a block of rows; a step wider than a block of columns;
# and on a GPU the stages of HorNet.
CASES = [((5,), 3, 1), ((1,), 2, 2), ((3, 7), 5, 3), ((65,), 33, 2), ((2,), 40, 4)]
if torch.cuda.is_available():
    CASES += [((16, 56, 56), 32, 2), ((16, 28, 28), 32, 3), ((64, 14, 14), 32, 4), ((64, 7, 7), 32, 5)]


def sizes_of(rows: tuple[int, ...], width: int, order: int) -> dict[str, tuple[int, ...]]:
    widths = [width * 2**k for k in range(order)]
    weights = sum(2 * d * d for d in widths[:-1])
    return {"x": (*rows, width), "gates": (*rows, sum(widths)), "weight": (weights,), "bias": (sum(widths) - width,)}


def make(make_inputs, case, dtype):
    """Random inputs; the weights keep the size of what passes through them."""
    inputs = make_inputs(sizes_of(*case), dtype)
    return inputs | {"weight": inputs["weight"] / case[1] ** 0.5}


def test_reference_is_the_recursion(make_inputs):
    x, gates, weight, bias = make_inputs(sizes_of((3, 5), 2, 3), torch.float64).values()
    first, second = weight[:8].view(4, 2), weight[8:].view(8, 4)
    y = x * gates[..., :2] / 3
    y = F.linear(y, first, bias[:4]) * gates[..., 2:6] / 3
    y = F.linear(y, second, bias[4:]) * gates[..., 6:] / 3
    torch.testing.assert_close(recursive_gate_reference(x, gates, weight, bias, 1 / 3), y, rtol=1e-12, atol=1e-14)


def test_reference_gradients(make_inputs):
    inputs = [t.requires_grad_() for t in make_inputs(sizes_of((2,), 2, 3), torch.float64).values()]
    assert torch.autograd.gradcheck(partial(recursive_gate_reference, scale=0.5), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES[1:], ids=str)
def test_kernel_agrees(case, dtype, make_inputs, assert_agrees):
    inputs = make(make_inputs, case, dtype)
    order, rows = case[2], inputs["x"].numel() // case[1]
    # Each step rounds a product and a sum of the last one's width; the gradients of weights sum over rows.
    roundings = {torch.float32: 2e-6, torch.float16: 2**-10, torch.bfloat16: 2**-6}[dtype]
    assert_agrees(partial(recursive_gate, scale=1 / 3), inputs, tolerance=roundings * order * max(1, rows / 64) ** 0.5)


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_single_product(backend, make_inputs):
    x, gates, weight, bias = (t.requires_grad_() for t in make_inputs(sizes_of((5,), 3, 1)).values())
    y = recursive_gate(x, gates, weight, bias, scale=2.0, backend=backend)
    assert y.equal(2 * (x * gates))
    grad_x, grad_gates = torch.autograd.grad(y.sum(), (x, gates))
    assert grad_x.equal(2 * gates) and grad_gates.equal(2 * x)


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_dtypes_under_mixed_precision(backend, make_inputs):
    inputs = make_inputs(sizes_of((3,), 2, 2))
    leaves = {n: (t.bfloat16() if n in ("x", "gates") else t).requires_grad_() for n, t in inputs.items()}
    y = recursive_gate(**leaves, backend=backend)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert {name: t.grad.dtype for name, t in leaves.items()} == {name: t.dtype for name, t in leaves.items()}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.ones(())}, r"x must be floating point \[..., d_0\] with d_0 > 0, got torch.float32 \(\)"),
        ({"gates": torch.ones(3, 8)}, r"gates must be torch.float32 with 2, 6, 14, 30 or so on channels.*\(3, 8\)"),
        ({"gates": torch.ones(4, 6)}, r"other axes of x \(3, 2\), got torch.float32 \(4, 6\)"),
        ({"gates": torch.ones(3, 6).half()}, r"got torch.float16 \(3, 6\)"),
        ({"weight": torch.ones(4, 2)}, r"weight must be floating point \(8,\) .*got torch.float32 \(4, 2\)"),
        ({"bias": torch.ones(4).long()}, r"bias must be floating point \(4,\) .*got torch.int64 \(4,\)"),
    ],
)
def test_bad_input_is_named(change, message):
    inputs = {name: torch.ones(shape) for name, shape in sizes_of((3,), 2, 2).items()}
    with pytest.raises(ValueError, match=message):
        recursive_gate(**inputs | change)
