"""Runs of rows through their own linear layers: run by run, in one call, and without values."""

import pytest
import torch

from gatedvision.layers.grouped_linear import _grouped_mm, grouped_linear, linear_by_run, linear_in_one_call

LENGTHS = {"uneven": (3, 0, 6, 1), "one": (0, 0, 0, 10)}


def make(lengths: tuple[int, ...], dtype: torch.dtype) -> tuple[list[torch.Tensor], torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(sum(lengths), 8), (4, 8, 16), (4, 16)]
    leaves = [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]
    return leaves, torch.tensor(lengths).cumsum(0).to(torch.int32)


def row_by_row(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    run_of_row = [int((ends <= row).sum()) for row in range(len(x))]
    return torch.stack([row @ weight[run] + bias[run] for row, run in zip(x, run_of_row, strict=True)])


def output_and_gradients(function, leaves: list[torch.Tensor], ends: torch.Tensor) -> dict[str, torch.Tensor]:
    y = function(*leaves, ends)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y).to(y)
    found = torch.autograd.grad((y * weights).sum(), leaves, materialize_grads=True, allow_unused=True)
    return dict(zip(("output", "x", "weight", "bias"), (y, *found), strict=True))


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_run_by_run(lengths):
    leaves, ends = make(lengths, torch.float64)
    actual = output_and_gradients(linear_by_run, leaves, ends)
    for name, expected in output_and_gradients(row_by_row, leaves, ends).items():
        torch.testing.assert_close(actual[name], expected, rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
    assert torch.equal(grouped_linear(*leaves, ends), actual["output"])


# Older versions run it on GPUs only.
@pytest.mark.skipif(not hasattr(torch.nn.functional, "grouped_mm"), reason="torch has no grouped product on CPUs")
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=["fp32", "bf16"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_in_one_call(lengths, dtype, limit):
    assert _grouped_mm is not None
    leaves, ends = make(lengths, dtype)
    actual = output_and_gradients(linear_in_one_call, leaves, ends)
    wide = [x.detach().double().requires_grad_() for x in leaves]
    for name, expected in output_and_gradients(row_by_row, wide, ends).items():
        assert actual[name].dtype == dtype
        error = (actual[name].double() - expected).norm() / expected.norm()
        assert error < limit, f"{name}: {error}"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares torch's grouped product on a GPU")
def test_on_a_gpu():
    leaves, ends = make((300, 0, 513, 1), torch.bfloat16)
    actual = output_and_gradients(grouped_linear, [x.detach().cuda().requires_grad_() for x in leaves], ends.cuda())
    wide = [x.detach().double().requires_grad_() for x in leaves]
    for name, expected in output_and_gradients(linear_by_run, wide, ends).items():
        error = (actual[name].double().cpu() - expected).norm() / expected.norm()
        assert error < 2e-2, f"{name}: {error}"


def test_without_values_there_is_a_shape():
    leaves, ends = make(LENGTHS["uneven"], torch.float32)
    assert grouped_linear(*(x.detach().to("meta") for x in leaves), ends.to("meta")).shape == (10, 16)
