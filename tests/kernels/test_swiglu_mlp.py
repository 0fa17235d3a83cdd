import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gatedvision_kernels import swiglu_mlp, swiglu_mlp_reference
from gatedvision_kernels.swiglu_mlp import _stages

# Rows, D, I and O: ones; primes; one row, channel and column over the tiles; and on a GPU two of ViG's layers.
SHAPES = [(1, 1, 1, 1), (7, 13, 5, 3), (129, 65, 65, 66)]
SHAPES += [(25088, 192, 512, 192), (4096, 384, 1024, 384)] * torch.cuda.is_available()


def shapes(rows: int, dim: int, hidden: int, out: int) -> dict[str, tuple[int, ...]]:
    return {"x": (rows, dim), "weight_in": (2 * hidden, dim), "weight_out": (out, hidden)}


def test_reference_is_the_formula(make_inputs):
    x, weight_in, weight_out = make_inputs(shapes(5, 4, 3, 2), torch.float64).values()
    expected = (F.silu(x @ weight_in[:3].T) * (x @ weight_in[3:].T)) @ weight_out.T
    torch.testing.assert_close(swiglu_mlp_reference(x, weight_in, weight_out), expected, rtol=1e-14, atol=1e-14)


def test_reference_gradient(make_inputs):
    inputs = make_inputs(shapes(3, 4, 3, 2), torch.float64).values()
    assert torch.autograd.gradcheck(swiglu_mlp_reference, [x.requires_grad_() for x in inputs])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", SHAPES, ids=str)
def test_kernels_agree(size, dtype, make_inputs, assert_agrees):
    inputs = make_inputs(shapes(*size), dtype)
    # Of the size that layers have, so that sixteen bits hold the gradients.
    inputs |= {name: inputs[name] / inputs[name].shape[1] ** 0.5 for name in ("weight_in", "weight_out")}
    # What is hidden is rounded to sixteen bits as well.
    tolerance = {torch.float32: 8e-6, torch.float16: 2e-3, torch.bfloat16: 2**-6}[dtype]
    assert_agrees(swiglu_mlp, inputs, tolerance=tolerance)


def test_weights_of_another_dtype(make_inputs, assert_agrees):
    inputs = make_inputs(shapes(9, 16, 32, 8))
    inputs["x"] = inputs["x"].bfloat16()
    assert_agrees(swiglu_mlp, inputs, tolerance=2**-6)


@pytest.mark.skipif(torch.version.hip is not None, reason="of NVIDIA's chips")
@pytest.mark.parametrize(("capability", "stages"), [((8, 0), 3), ((8, 6), 2), ((9, 0), 3), ((12, 0), 2)])
def test_small_chips_load_less_at_once(capability, stages, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert _stages.__wrapped__(torch.device("cuda", 0), torch.bfloat16) == stages
    assert _stages.__wrapped__(torch.device("cuda", 0), torch.float32) == 1


def test_keeps_its_inputs_alone(make_inputs):
    inputs = make_inputs(shapes(9, 16, 32, 8))
    kept: list[Tensor] = []
    leaves = {name: x.requires_grad_() for name, x in inputs.items()}
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        swiglu_mlp(**leaves, backend="triton")
    assert {x.data_ptr() for x in kept} == {x.data_ptr() for x in leaves.values()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(2, 5)}, r"weight_in must be \[2I, D\] beside x \[..., D\], got \[6, 4\], \[2, 5\]"),
        (
            {"weight_out": torch.ones(2, 4)},
            r"weight_out must be \[O, I\] beside weight_in \[2I, D\], got \[2, 4\], \[6",
        ),
        ({"x": torch.ones(2, 4).long()}, "x must be floating point, got torch.int64"),
    ],
)
def test_bad_input_is_named(change, message):
    inputs = {"x": torch.ones(2, 4), "weight_in": torch.ones(6, 4), "weight_out": torch.ones(2, 3)}
    with pytest.raises(ValueError, match=message):
        swiglu_mlp(**(inputs | change))
