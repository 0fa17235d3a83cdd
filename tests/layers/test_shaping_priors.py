import pytest
import torch

from gatedvision.layers.shaping_priors import (
    BetaPrior,
    NormalPrior,
    RelaxedBernoulliPrior,
    SymmetricBetaPrior,
)

PRIORS = [RelaxedBernoulliPrior(0.3, 0.5), NormalPrior(0.4, 0.1), BetaPrior(3.0, 7.0), SymmetricBetaPrior(0.3)]


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: type(prior).__name__)
def test_a_parameter_for_each_group_is_one_prior_for_each_group(prior):
    groups = torch.rand(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fields = vars(prior)
    wide = type(prior)(**{name: value * torch.tensor([0.5, 1.0, 1.5]).double() for name, value in fields.items()})
    for index, factor in enumerate((0.5, 1.0, 1.5)):
        single = type(prior)(**{name: factor * value for name, value in fields.items()})
        torch.testing.assert_close(wide.cdf(groups)[index], single.cdf(groups)[index], rtol=1e-12, atol=0)
    assert prior.cdf(groups).dtype == torch.float64
    torch.testing.assert_close(prior.cdf(groups.float()), prior.cdf(groups).float(), rtol=1e-5, atol=1e-6)
    # Where it does not matter how, a tensor of one element is a number.
    (name, value), *others = fields.items()
    shaped = type(prior)(**{name: torch.tensor([[value]]), **dict(others)})
    torch.testing.assert_close(shaped.cdf(groups), prior.cdf(groups), rtol=1e-6, atol=1e-8)


def test_gradients_to_values_and_parameters():
    groups = (
        0.1 + 0.6 * torch.rand(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ).requires_grad_()
    for prior in PRIORS:
        columns = [torch.full((2,), value, dtype=torch.float64, requires_grad=True) for value in vars(prior).values()]
        kind = type(prior)
        assert torch.autograd.gradcheck(lambda x, *p, kind=kind: kind(*p).cdf(x), (groups, *columns))


def test_far_values_of_a_beta_distribution_still_move():
    groups = torch.tensor([[0.0, 1e-4, 0.5, 1.0]], dtype=torch.float64, requires_grad=True)
    BetaPrior(20.0, 20.0).cdf(groups).sum().backward()
    assert groups.grad[0, [0, 1, 3]].tolist() == [1e-3] * 3 and 1 < groups.grad[0, 2] < 100
    poles = torch.tensor([[0.0, 1.0]], requires_grad=True)
    SymmetricBetaPrior(0.5).cdf(poles).sum().backward()
    assert poles.grad.tolist() == [[100.0, 100.0]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RelaxedBernoulliPrior(1.0, 0.5), "mean of a prior must be between 0 and 1, got 1.0"),
        (lambda: RelaxedBernoulliPrior(0.5, 0.0), "temperature of a prior must be above 0 and finite, got 0.0"),
        (lambda: NormalPrior(0.5, -1.0), "std of a prior must be above 0 and finite, got -1.0"),
        (lambda: BetaPrior(1.0, float("nan")), "b of a prior must be above 0 and finite, got nan"),
        (lambda: SymmetricBetaPrior(1.5), "a of a prior must be between 0 and 1, got 1.5"),
        (
            lambda: NormalPrior(torch.zeros(4), 1.0).cdf(torch.zeros(3, 2)),
            r"one parameter for all or one for each of the 3 groups, got shape \(4,\)",
        ),
    ],
)
def test_bad_parameters_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
