from functools import partial

import pytest
import torch
import torch.nn.functional as F

from gatedvision_kernels import gated_norm_mix, gated_norm_mix_reference

# One element; a row of heads; primes; one row over a block of rows; more blocks than programs; and on
# a GPU the heads of a real batch.
SHAPES = [(1, 1), (2, 3, 2, 32), (3, 7, 13), (33, 64), (9, 513)] + [(128, 196, 6, 64)] * torch.cuda.is_available()


def shapes_of(shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    rows = {"global_branch": shape, "local_branch": shape, "gate": shape}
    return rows | {"global_weight": shape[-1:], "local_weight": shape[-1:]}


@pytest.mark.parametrize("activation", ["identity", "silu"])
def test_reference_is_two_norms_and_a_lerp(activation, make_inputs):
    inputs = make_inputs(shapes_of((2, 3, 2, 13)), torch.float64)
    global_branch, local_branch, gate, global_weight, local_weight = inputs.values()
    expected = torch.lerp(
        F.rms_norm(local_branch, (13,), local_weight, eps=1e-3),
        F.rms_norm(global_branch, (13,), global_weight, eps=1e-3),
        gate.sigmoid(),
    )
    if activation == "silu":
        expected = F.silu(expected)
    actual = gated_norm_mix_reference(**inputs, eps=1e-3, activation=activation)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("activation", ["identity", "silu"])
def test_reference_gradients(activation, make_inputs):
    inputs = [t.requires_grad_() for t in make_inputs(shapes_of((2, 5)), torch.float64).values()]
    assert torch.autograd.gradcheck(partial(gated_norm_mix_reference, activation=activation), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("activation", ["identity", "silu"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_agrees(shape, activation, dtype, make_inputs, assert_agrees):
    assert_agrees(partial(gated_norm_mix, activation=activation), make_inputs(shapes_of(shape), dtype))


def test_mixed_dtypes(make_inputs, assert_agrees):
    inputs = make_inputs(shapes_of((3, 2, 32)))
    inputs["global_branch"] = inputs["global_branch"].bfloat16()
    inputs["gate"] = inputs["gate"].half()
    assert gated_norm_mix(**inputs, backend="triton").dtype == torch.bfloat16
    assert gated_norm_mix(**inputs, backend="reference").dtype == torch.bfloat16
    assert_agrees(gated_norm_mix, inputs)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"local_branch": (2, 4)}, r"share one shape \[..., V\], V > 0; got \(2, 3\), \(2, 4\) and \(2, 3\)"),
        ({"gate": (3,)}, r"got \(2, 3\), \(2, 3\) and \(3,\)"),
        ({"global_weight": (1,)}, r"must have shape \(3,\); got \(1,\) and \(3,\)"),
        ({"local_weight": (2, 3)}, r"must have shape \(3,\); got \(3,\) and \(2, 3\)"),
    ],
)
def test_bad_shape_is_named(changes, message, make_inputs):
    with pytest.raises(ValueError, match=message):
        gated_norm_mix(**make_inputs(shapes_of((2, 3)) | changes))


def test_bad_option_or_dtype_is_named(make_inputs):
    inputs = make_inputs(shapes_of((2, 3)))
    with pytest.raises(ValueError, match="activation must be one of .*, got 'relu'"):
        gated_norm_mix(**inputs, activation="relu")
    inputs["gate"] = inputs["gate"].long()
    with pytest.raises(ValueError, match="must be floating point, got .*torch.int64"):
        gated_norm_mix(**inputs)
