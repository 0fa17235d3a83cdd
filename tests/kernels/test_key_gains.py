"""What keys change: against the definition, and what it is by its two halves."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gatedvision_kernels import key_gains, key_gains_reference

SIZES = [(2, 9, 3, 8), (1, 1, 1, 4), (2, 64, 2, 64), (1, 197, 2, 32), (2, 130, 1, 65), (1, 65, 3, 128)]


def draw(make_inputs, size: tuple[int, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    names = ("query", "key", "value", "output", "grad")
    inputs = make_inputs(dict.fromkeys(names, size) | {"gates": size[:2]}, dtype)
    inputs["gates"] = (inputs["gates"] > 0).to(dtype)
    inputs["gates"][:, 0] = 1
    return inputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_kernels_agree(size, dtype, make_inputs):
    inputs = draw(make_inputs, size, dtype)
    actual = key_gains(**inputs, backend="triton")
    expected = key_gains_reference(**{name: x.double() for name, x in inputs.items()})
    assert actual.dtype == torch.float32 and actual.shape == size[:2]
    # Inputs are the same numbers; scores of sixteen bits are summed in float32.
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def attention(make_inputs, gates: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Return inputs of keys' gains, and the change of a loss, linear in the output, for each key switched alone."""
    query, key, value, grad = make_inputs(
        dict.fromkeys(("query", "key", "value", "grad"), (1, 7, 2, 8)), torch.float64
    ).values()
    parts = [x.transpose(1, 2) for x in (query, key, value)]

    def attend(on: Tensor) -> Tensor:
        y = F.scaled_dot_product_attention(*parts, attn_mask=on.bool()[None, None, None])
        return y.transpose(1, 2)

    changed = gates.repeat(7, 1)
    changed.fill_diagonal_(1)
    losses = torch.stack([(attend(on) * grad).sum() for on in changed])
    output = attend(gates)
    inputs = {"query": query, "key": key, "value": value, "output": output, "grad": grad, "gates": gates[None]}
    return inputs, losses - (output * grad).sum()


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_keys_that_are_off_tell_what_switching_them_on_does(backend, make_inputs, device):
    gates = torch.tensor([1, 0, 1, 0, 0, 1, 0], dtype=torch.float64, device=device)
    inputs, change = attention(make_inputs, gates)
    if backend == "triton":
        inputs = {name: x.float() for name, x in inputs.items()}
    gains = key_gains(**inputs, backend=backend)[0]
    torch.testing.assert_close(gains[gates == 0].double(), change[gates == 0], rtol=1e-4, atol=1e-4)


def test_keys_that_are_on_have_their_derivative(make_inputs, device):
    gates = torch.tensor([1, 0, 1, 0, 0, 1, 0], dtype=torch.float64, device=device)
    inputs, _ = attention(make_inputs, gates)
    leaf = gates.clone().requires_grad_()
    query, key, value, grad = (inputs[name].transpose(1, 2) for name in ("query", "key", "value", "grad"))
    weights = (query @ key.transpose(-2, -1) * 8**-0.5).exp() * leaf
    loss = ((weights / weights.sum(-1, keepdim=True)) @ value * grad).sum()
    (slope,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(key_gains(**inputs)[0][gates == 1], slope[gates == 1])


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_a_key_far_above_all_others_stays_within_what_it_can_change(backend, make_inputs, device):
    inputs = draw(make_inputs, (1, 9, 1, 16), torch.float32)
    inputs["gates"][0, 4] = 0
    inputs["key"][0, 4] = 300 * inputs["query"][0, 2]
    gains = key_gains(**inputs, backend=backend)
    reach = (inputs["value"][0, 4] - inputs["output"]).mul(inputs["grad"]).sum(-1).abs().sum()
    assert torch.isfinite(gains).all() and gains[0, 4].abs() <= reach


def test_scale(make_inputs):
    inputs = draw(make_inputs, (1, 9, 2, 16), torch.float32)
    expected = key_gains_reference(**(inputs | {"query": 2 * inputs["query"]}), scale=0.25)
    torch.testing.assert_close(key_gains(**inputs, scale=0.5, backend="triton"), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": (9, 2, 4)}, r"query must be \[B, L, N, D\]"),
        ({"value": (1, 9, 2, 8)}, r"value must be \[1, 9, 2, 4\] as the query is, got \[1, 9, 2, 8\]"),
        ({"gates": (1, 8)}, r"gates must be \[1, 9\], one of each token, got \[1, 8\]"),
    ],
)
def test_shapes_that_do_not_fit(change, message, make_inputs):
    inputs = draw(make_inputs, (1, 9, 2, 4), torch.float32) | make_inputs(change)
    with pytest.raises(ValueError, match=message):
        key_gains(**inputs)


def test_heads_that_are_too_wide(make_inputs):
    inputs = draw(make_inputs, (1, 3, 1, 160), torch.float32)
    torch.testing.assert_close(key_gains(**inputs), key_gains_reference(**inputs))
    with pytest.raises(ValueError, match="heads of up to 128, got 160"):
        key_gains(**inputs, backend="triton")
