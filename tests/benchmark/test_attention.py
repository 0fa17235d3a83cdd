import pytest
import torch

from gatedvision.benchmark.attention import INPUTS, _two_passes, benchmark_attention, check_operator, random_inputs
from gatedvision.benchmark.timing import Spread
from gatedvision_kernels import bidirectional_gla

SMALL = dict(batch=3, tokens=20, heads=2, key_width=16, value_width=32, seconds=0.01)


def inputs(dtype: torch.dtype, tokens: int = 20) -> list[torch.Tensor]:
    return random_inputs([(3, tokens, 2, width) for width in (16, 16, 32, 16, 16)], dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_right_operator_passes_with_an_error_of_its_precision(dtype):
    error = check_operator(bidirectional_gla, inputs(dtype))
    assert 0 < error < 2 * torch.finfo(dtype).eps


def test_one_token_has_gates_without_gradient():
    check_operator(bidirectional_gla, inputs(torch.float32, tokens=1))


def test_a_wrong_output_is_refused():
    with pytest.raises(ValueError, match=r"not timed, output is wrong: relative error 0.02\d*, limit 0.01"):
        check_operator(lambda *x: 1.02 * bidirectional_gla(*x), inputs(torch.bfloat16))


def test_nan_is_refused():
    with pytest.raises(ValueError, match="output is wrong: relative error nan"):
        check_operator(lambda *x: float("nan") * bidirectional_gla(*x), inputs(torch.bfloat16))


@pytest.mark.parametrize("wrong", range(5))
def test_a_wrong_gradient_is_refused(wrong):
    def operator(*x: torch.Tensor) -> torch.Tensor:
        # The same output, whose slope in one input is 2 % too steep.
        x = [1.02 * y - 0.02 * y.detach() if i == wrong else y for i, y in enumerate(x)]
        return bidirectional_gla(*x)

    with pytest.raises(ValueError, match=f"not timed, gradient of {INPUTS[wrong]} is wrong: relative error 0.02"):
        check_operator(operator, inputs(torch.float32))


def test_a_fault_in_the_last_sample_is_seen():
    def operator(*x: torch.Tensor) -> torch.Tensor:
        return bidirectional_gla(*x) * torch.tensor([1.0, 1.0, 1.1], device=x[0].device)[:, None, None, None]

    with pytest.raises(ValueError, match="output is wrong"):
        check_operator(operator, inputs(torch.float32))


def test_rows_and_floor():
    report = benchmark_attention(**SMALL, dtype="bf16", bandwidth=2.0)
    rows = {(row["operator"].split()[0], row["pass"]): row for row in report.rows}
    ours = rows["gatedvision", "forward"], rows["gatedvision", "forward + backward"]
    # q, k, v, two gates and the output, then twice as many without a second read of the output.
    elements = 3 * 20 * 2 * (4 * 16 + 2 * 32), 3 * 20 * 2 * (8 * 16 + 3 * 32)
    assert ours[0]["floor ms"] == pytest.approx(2 * elements[0] / 2e12 * 1e3)
    assert ours[1]["floor ms"] == pytest.approx(2 * sum(elements) / 2e12 * 1e3)
    for row in ours:
        time = row["CUDA graph ms (20–80 %)"] or row["eager ms (20–80 %)"]
        assert isinstance(time, Spread) and 0 < time.low <= time.median <= time.high
        assert row["times the floor"] == pytest.approx(time.median / row["floor ms"])
    softmax = rows["softmax", "forward"]
    assert softmax["operator"].endswith("1 heads of 64") and softmax["floor ms"] is None


def test_sizes_must_be_positive():
    with pytest.raises(ValueError, match="tokens must be positive, got 0"):
        benchmark_attention(**SMALL | {"tokens": 0})


def causal_recurrence(q, k, v, g, scale):
    state, outputs = torch.zeros_like(q[:, 0, :, :, None] * v[:, 0, :, None]), []
    for t in range(q.shape[1]):
        state = state * g[:, t, :, :, None].exp() + k[:, t, :, :, None] * v[:, t, :, None]
        outputs.append(scale * (q[:, t, :, :, None] * state).sum(-2))
    return torch.stack(outputs, 1), state


def test_two_causal_passes_are_the_operator():
    tensors = inputs(torch.float32)
    torch.testing.assert_close(_two_passes(causal_recurrence, *tensors), bidirectional_gla(*tensors))
