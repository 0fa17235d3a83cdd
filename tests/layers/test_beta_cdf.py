import pytest
import torch
from scipy.special import betainc
from scipy.stats import beta

from gatedvision.layers.beta_cdf import beta_cdf, beta_density

SHARES = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
TAILS = 10.0 ** torch.arange(-12, -1, dtype=torch.float64)
PLACES = torch.cat([TAILS, SHARES, 1 - TAILS])


@pytest.mark.parametrize(
    ("parameters", "tolerance"), [((0.1, 0.7, 1.0, 1.5, 3.0, 20.0, 500.0), 1e-12), ((0.02, 0.3, 7.0, 3000.0), 1e-9)]
)
def test_it_is_exact_for_parameters_of_any_size(parameters, tolerance):
    values = torch.tensor(parameters, dtype=torch.float64)
    x, a, b = PLACES[:, None, None], values[:, None], values
    expected = torch.from_numpy(betainc(a.numpy(), b.numpy(), x.numpy()))
    torch.testing.assert_close(beta_cdf(x, a, b), expected, rtol=0, atol=tolerance)
    density = torch.from_numpy(beta(a.numpy(), b.numpy()).pdf(x.numpy()))
    torch.testing.assert_close(beta_density(x, a, b), density, rtol=1e-9, atol=0)


def test_the_ends_are_zero_and_one():
    x, a = torch.tensor([0.0, 1.0]), torch.tensor(0.5)
    torch.testing.assert_close(beta_cdf(x, a, a), x.double(), rtol=0, atol=1e-8)


def test_every_gradient_is_exact():
    x = torch.tensor([0.02, 0.3, 0.5, 0.71, 0.99], dtype=torch.float64, requires_grad=True)
    a = torch.tensor([0.4, 3.0, 7.0, 7.0, 2.0], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([0.6, 7.0, 7.0, 3.0, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(beta_cdf, (x, a, b))
    (slope,) = torch.autograd.grad(beta_cdf(x, a, b).sum(), x)
    torch.testing.assert_close(slope, beta_density(x, a, b), rtol=1e-9, atol=0)
