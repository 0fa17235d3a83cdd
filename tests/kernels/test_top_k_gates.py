"""Gates of the best experts: against loops, torch's own gradient, ties, and what is refused."""

import pytest
import torch

from gatedvision_kernels import top_k_gates, top_k_gates_reference

BACKENDS = ["triton", "reference"]
# Tokens, experts and choices: one of each; all of few; numbers of experts that are no powers of two; rows over a block.
SHAPES = [(1, 1, 1), (5, 3, 3), (37, 7, 2), (150, 8, 2), (33, 48, 5), (9, 64, 64)]


def test_reference_is_a_sort(make_inputs):
    logits = make_inputs({"logits": (3, 11, 6)}, torch.float64)["logits"]
    gates, experts = top_k_gates_reference(logits, 4)
    shares = logits.exp() / logits.exp().sum(-1, keepdim=True)
    for place in [(i, j) for i in range(3) for j in range(11)]:
        order = sorted(range(6), key=lambda expert, place=place: -float(shares[place][expert]))[:4]
        assert experts[place].tolist() == order
        torch.testing.assert_close(gates[place], shares[place][order])


def test_reference_gradient(make_inputs):
    logits = make_inputs({"logits": (5, 4)}, torch.float64)["logits"].requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: top_k_gates_reference(logits, 2)[0], [logits])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_agree(shape, dtype, make_inputs, assert_agrees):
    num_tokens, num_experts, num_selected = shape
    inputs = make_inputs({"logits": (num_tokens, num_experts)}, dtype)
    experts = top_k_gates(**inputs, num_selected=num_selected, backend="triton")[1]
    assert torch.equal(experts, top_k_gates_reference(inputs["logits"], num_selected)[1])
    assert_agrees(lambda logits, backend: top_k_gates(logits, num_selected, backend=backend)[0], inputs)


@pytest.mark.parametrize("num_selected", range(1, 7))
def test_any_number_of_choices(num_selected, make_inputs, assert_agrees):
    assert_agrees(
        lambda logits, backend: top_k_gates(logits, num_selected, backend=backend)[0],
        make_inputs({"logits": (2, 5, 6)}),
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_go_to_the_lower_expert(backend, device):
    logits = torch.tensor([[1.0, 2, 2, 1, 2], [0, 0, 0, 0, 0], [-1, -2, -1, -2, -1]], device=device)
    assert top_k_gates(logits, 4, backend=backend)[1].tolist() == [[1, 2, 4, 0], [0, 1, 2, 3], [0, 2, 4, 1]]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_no_number_goes_to_experts_that_there_are(backend, device):
    logits = torch.tensor([[0.0, float("nan"), 1], [float("-inf")] * 3, [float("inf"), 0, 0]], device=device)
    gates, experts = top_k_gates(logits, 2, backend=backend)
    assert gates.isnan().all() and experts.tolist() == [[0, 1]] * 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_experts_without_a_chance_have_a_gate_of_0(backend, device):
    logits = torch.tensor([[float("-inf"), 3.0, float("-inf")], [200.0, 0, -200]], device=device)
    gates, experts = top_k_gates(logits, 3, backend=backend)
    assert gates.tolist() == [[1, 0, 0]] * 2 and experts.tolist() == [[1, 0, 2], [0, 1, 2]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_dtypes(backend, make_inputs):
    logits = make_inputs({"logits": (4, 5)}, torch.bfloat16)["logits"].requires_grad_()
    gates, experts = top_k_gates(logits, 2, backend=backend)
    assert gates.dtype == torch.float32 and experts.dtype == torch.int64 and not experts.requires_grad
    gates.sum().backward()
    assert logits.grad.dtype == torch.bfloat16
    assert top_k_gates(logits.double(), 2)[0].dtype == torch.float64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: top_k_gates(torch.ones(4, 3), 4), "num_selected must be 1 to 3, the experts, got 4"),
        (lambda: top_k_gates(torch.ones(4, 3), 0), "num_selected must be 1 to 3, the experts, got 0"),
        (lambda: top_k_gates(torch.ones(4, 3).int(), 1), r"floating point \[..., E\], got torch.int32 \(4, 3\)"),
        (lambda: top_k_gates(torch.ones(()), 1), r"floating point \[..., E\], got torch.float32 \(\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
