"""Numbers reach the host as they are, on a GPU without waiting for what was told to it afterwards."""

import time

import pytest
import torch

from gatedvision.engine.step_numbers import LateNumber, mark, read_numbers

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
def test_numbers_are_those_of_item(device: str) -> None:
    values = {
        "loss": torch.tensor(1 / 3, device=device, requires_grad=True),
        "loss_half": torch.tensor(0.1, device=device, dtype=torch.bfloat16),
        "nan": torch.tensor(float("nan"), device=device),
    }
    known = [mark(values["loss"]), None]
    numbers = read_numbers(values, known)
    assert list(numbers) == list(values)
    assert numbers["loss"] == values["loss"].item() and numbers["loss_half"] == values["loss_half"].item()
    assert numbers["nan"] != numbers["nan"]
    assert read_numbers({}, known) == {}


@pytest.mark.parametrize("device", DEVICES)
def test_late_numbers(device: str) -> None:
    x = torch.tensor(1 / 3, device=device)
    late = LateNumber(x)
    x.zero_()
    assert late.read() == torch.tensor(1 / 3).item()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU goes on alone")
def test_what_comes_afterwards_is_not_waited_for() -> None:
    x = torch.randn(8192, 8192, device="cuda")
    loss = x.sum()
    torch.cuda.synchronize()
    known = mark(loss)
    read_numbers({"loss": loss}, [known])  # loads the code of the kernels, for which the GPU stops
    y = torch.empty_like(x)
    for _ in range(40):
        torch.mm(x, x, out=y)
    start = time.perf_counter()
    numbers = read_numbers({"loss": loss}, [known])
    waited = time.perf_counter() - start
    torch.cuda.synchronize()
    assert waited < 0.3 * (time.perf_counter() - start)
    assert numbers["loss"] == loss.item() and y.isfinite().all()
