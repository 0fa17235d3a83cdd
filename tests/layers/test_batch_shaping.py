"""Batch-shaping against golden records of the published code: losses, gradients, and a run that learns its priors."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gatedvision.layers.batch_shaping import GeneralizedBatchShaping, batch_shaping_loss, gather_batch
from gatedvision.layers.shaping_priors import (
    BetaPrior,
    NormalPrior,
    RelaxedBernoulliPrior,
    SymmetricBetaPrior,
)
from tests.golden.golden import Record, draw_input, find_records

RECORDS: dict[str, Record] = {record.name: record for record in find_records("msvit")}
CASES = RECORDS["batch_shaping_loss"].facts["kwargs"]
KINDS = {
    "RELAXED_BERNOULLI": RelaxedBernoulliPrior,
    "NORMAL": NormalPrior,
    "BETA": BetaPrior,
    "SYMBETA": lambda a, _: SymmetricBetaPrior(a),
}


def values_of(case: str) -> Tensor:
    shape = {"rb": (32, 9), "hyper": (49,), "beta": (16, 5), "symbeta": (40,), "ties": (4, 20), "no": (4, 20)}
    seed = {"rb": 0, "hyper": 3, "beta": 4, "symbeta": 5, "ties": 6, "no": 6}
    values = draw_input(*shape[case.split("_")[0]], seed=seed[case.split("_")[0]]).sigmoid()
    return (8 * values).round() / 8 if case.endswith("ties") else values


@pytest.mark.parametrize("case", CASES)
def test_recorded_losses_and_gradients(case):
    facts, arrays = CASES[case], RECORDS["batch_shaping_loss"].arrays()
    x = values_of(case).requires_grad_()
    if case == "rb_per_position":
        parameters = [draw_input(9, seed=seed).sigmoid().requires_grad_() for seed in (1, 2)]
    else:
        parameters = [facts["prior_param1"], facts["prior_param2"]]
    prior = KINDS[facts["prior"]](*parameters)
    loss = batch_shaping_loss(x, prior, facts["per_group_axis"], facts["handle_ties"])
    loss.backward()
    torch.testing.assert_close(loss, arrays[f"{case}.loss"], rtol=1e-12, atol=1e-12)
    # Equal values can be sorted in any order: which of them gets which gradient is not determined.
    order = (lambda g: g.flatten().sort().values) if case == "no_ties" else (lambda g: g)
    torch.testing.assert_close(order(x.grad), order(arrays[f"{case}.grad_x"]), rtol=1e-9, atol=1e-12)
    for name, parameter in zip(("p1", "p2"), parameters, strict=True):
        if isinstance(parameter, Tensor):
            torch.testing.assert_close(parameter.grad, arrays[f"{case}.grad_{name}"], rtol=1e-9, atol=1e-12)


def test_gradients_of_a_learned_beta_prior_for_each_group():
    values = (0.05 + 0.9 * draw_input(7, 3).sigmoid()).requires_grad_()
    a, b = (torch.tensor(p, dtype=torch.float64, requires_grad=True) for p in ([0.8, 2.0, 3.0], [0.5, 4.0, 1.0]))
    assert torch.autograd.gradcheck(lambda x, *p: batch_shaping_loss(x, BetaPrior(*p), dim=1), (values, a, b))
    # One group at a time, against a loop over the definition.
    singles = [batch_shaping_loss(values[:, k], BetaPrior(a[k], b[k])) for k in range(3)]
    torch.testing.assert_close(batch_shaping_loss(values, BetaPrior(a, b), dim=1), torch.stack(singles).mean())


def test_it_is_the_definition():
    values, prior = draw_input(4, 3, 5).sigmoid(), NormalPrior(0.4, 0.2)
    expected = 0.0
    for group in range(3):
        ordered = sorted(values[:, group].flatten().tolist())
        for place, value in enumerate(ordered, 1):
            expected += (place / 21 - float(prior.cdf(torch.tensor([[value]], dtype=torch.float64)))) ** 2 / 60
    assert float(batch_shaping_loss(values, prior, dim=1)) == pytest.approx(expected, rel=1e-12)
    assert float(batch_shaping_loss(values.float(), prior, dim=-2)) == pytest.approx(expected, rel=1e-5)
    assert batch_shaping_loss(values.bfloat16(), prior).dtype == torch.float32


def test_points_and_priors_learn_as_recorded():
    facts, arrays = RECORDS["gbas_training_beta"].facts["kwargs"], RECORDS["gbas_training_beta"].arrays()
    points = (0.4 * draw_input(200, 30, seed=20) + 4 * draw_input(30, seed=21).tanh()).requires_grad_()
    loss = GeneralizedBatchShaping(30, BetaPrior(*facts["hyperprior_params"]), dtype=torch.float64)
    with torch.no_grad():
        loss.mean_logit.copy_(0.01 * draw_input(30, seed=22))
    optimizer = torch.optim.Adam([points, *loss.parameters()])
    history = []
    for step in range(facts["steps"]):
        optimizer.param_groups[0]["lr"] = 0.3 * (max(1e-4, 0.3 * step / 20) if step < 20 else 0.3)
        terms = loss(points.sigmoid())
        history.append(torch.stack([terms[name].detach() for name in ("prior", "hyperprior", "temperature", "total")]))
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
    recorded_steps = [*range(21), *range(30, 350, 10)]
    found, expected = torch.stack(history)[recorded_steps], arrays["history"]
    torch.testing.assert_close(found[:21], expected[:21], rtol=1e-9, atol=0)
    # Rounding may change the order of points, and with it what follows.
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    means, temperatures = loss.mean_logit.sigmoid().detach(), loss.temperature_logit.sigmoid().detach()
    torch.testing.assert_close(means.sort().values, arrays["mu_final"].sort().values, rtol=1e-3, atol=0)
    torch.testing.assert_close(temperatures.sort().values, arrays["tau_final"].sort().values, rtol=1e-3, atol=0)
    assert float((points > 0).double().mean()) == pytest.approx(float(arrays["frac_active"]), abs=1e-3)


def test_two_processes_are_one_with_the_whole_batch(tmp_path):
    """Averaged gradients of two halves are those of the whole, to gates and to the parameters of the priors."""
    script = Path(__file__).with_name("batch_shaping_two_processes.py")
    workers = [
        subprocess.Popen([sys.executable, script, tmp_path, str(rank)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(errors)
    whole = torch.load(tmp_path / "whole.pt")
    halves = [torch.load(tmp_path / f"half_{rank}.pt") for rank in range(2)]
    for half in halves:
        torch.testing.assert_close(half["loss"], whole["loss"])
    torch.testing.assert_close(torch.cat([half["values"] / 2 for half in halves]), whole["values"])
    for name in ("mean", "temperature"):
        torch.testing.assert_close((halves[0][name] + halves[1][name]) / 2, whole[name])


def test_one_process_gathers_nothing():
    x = torch.ones(2, 3)
    assert gather_batch(x) is x


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_gates": 0}, "num_gates must be at least 1, got 0"),
        ({"mean": 1.0}, "mean must lie between 0 and 1, got 1.0"),
        ({"temperature_weight": -0.1}, "temperature_weight must be at least 0, got -0.1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        GeneralizedBatchShaping(**{"num_gates": 4, "hyperprior": BetaPrior(3.0, 7.0), **arguments})


def test_bad_values_are_named():
    with pytest.raises(ValueError, match=r"batch-shaping needs values, got shape \(0, 3\)"):
        batch_shaping_loss(torch.zeros(0, 3), NormalPrior(0.5, 0.1), dim=1)
    with pytest.raises(ValueError, match=r"expected gates \[B, 4\], got shape \(2, 3\)"):
        GeneralizedBatchShaping(4, BetaPrior(3.0, 7.0))(torch.zeros(2, 3))
