"""Distributions on [0, 1] that batch-shaping can make gates follow (arXiv:1907.06627, arXiv:2307.02321).

Shapes: G groups of N values. A parameter is a number, a tensor of one element, or one for each group ``[G]``; gradients
flow to tensors.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Protocol, Union

import torch
from torch import Tensor

from gatedvision.layers.beta_cdf import beta_cdf, beta_density

Parameter = Union[float, Tensor]


class Prior(Protocol):
    """A distribution of which batch-shaping needs the distribution function."""

    def cdf(self, x: Tensor) -> Tensor:
        """Return the probability of a value up to ``x``, for values ``[G, N]``."""
        ...


@dataclass(frozen=True)
class RelaxedBernoulliPrior:
    """Mass near 0 and 1, the more of it the lower the temperature: F(x) = sigmoid(t logit(x) - logit(m)).

    Values outside of [0.001, 0.999] count as these, and get no gradient.

    Args:
        mean: m, about the share of values near 1, between 0 and 1.
        temperature: t, above 0.

    Raises:
        ValueError: a number is out of range.
    """

    mean: Parameter
    temperature: Parameter

    def __post_init__(self) -> None:
        _check("mean", self.mean, 1.0)
        _check("temperature", self.temperature)

    def cdf(self, x: Tensor) -> Tensor:
        """Return the probability of a value up to ``x``, for values ``[G, N]``."""
        mean, temperature = for_groups(self.mean, x), for_groups(self.temperature, x)
        return (temperature * x.clamp(1e-3, 1 - 1e-3).logit() - mean.logit()).sigmoid()


@dataclass(frozen=True)
class NormalPrior:
    """Normal distribution, which is not cut at 0 and 1.

    Args:
        mean: its mean.
        std: its deviation, above 0.

    Raises:
        ValueError: the deviation is out of range.
    """

    mean: Parameter
    std: Parameter

    def __post_init__(self) -> None:
        _check("std", self.std)

    def cdf(self, x: Tensor) -> Tensor:
        """Return the probability of a value up to ``x``, for values ``[G, N]``."""
        mean, std = for_groups(self.mean, x), for_groups(self.std, x)
        return 0.5 * (1 + ((x - mean) / (sqrt(2) * std)).erf())


@dataclass(frozen=True)
class BetaPrior:
    """Beta distribution, whose mean is a / (a + b).

    The gradient to a value is the density, kept between 0.001 and 100 as published, so that values far off still move.
    The gradient to the parameters is exact (published is a finite difference).

    Args:
        a: first parameter, above 0; see :func:`~gatedvision.layers.beta_cdf.beta_cdf` for how exact it is.
        b: second parameter, above 0.

    Raises:
        ValueError: a number is out of range.
    """

    a: Parameter
    b: Parameter

    def __post_init__(self) -> None:
        _check("a", self.a)
        _check("b", self.b)

    def cdf(self, x: Tensor) -> Tensor:
        """Return the probability of a value up to ``x``, for values ``[G, N]``."""
        return _bounded_beta_cdf(x, self.a, self.b)


@dataclass(frozen=True)
class SymmetricBetaPrior:
    """Beta(a, 1 - a): mean a, and poles at 0 and 1, where gates shall be. Gradients as of :class:`BetaPrior`.

    Args:
        a: its mean, between 0 and 1.

    Raises:
        ValueError: a number is out of range.
    """

    a: Parameter

    def __post_init__(self) -> None:
        _check("a", self.a, 1.0)

    def cdf(self, x: Tensor) -> Tensor:
        """Return the probability of a value up to ``x``, for values ``[G, N]``."""
        return _bounded_beta_cdf(x, self.a, 1 - self.a)


def for_groups(parameter: Parameter, x: Tensor) -> Tensor:
    """Bring a parameter to type, device and axes of the values.

    Args:
        parameter: a number, a tensor of one element, or ``[G]``.
        x: values ``[G, N]``.

    Returns:
        A scalar, or ``[G, 1]``.

    Raises:
        ValueError: it is of another shape.
    """
    value = torch.as_tensor(parameter, dtype=x.dtype, device=x.device)
    if value.numel() == 1:
        return value.reshape(())
    if value.shape != x.shape[:1]:
        raise ValueError(
            f"a prior has one parameter for all or one for each of the {len(x)} groups, got shape {tuple(value.shape)}"
        )
    return value.unsqueeze(1)


def _bounded_beta_cdf(x: Tensor, a: Parameter, b: Parameter) -> Tensor:
    # In float64 from the start: a number such as 0.3 would not survive the way through float32.
    wide = x.double()
    a, b = for_groups(a, wide), for_groups(b, wide)
    fixed = wide.detach()
    slope = beta_density(fixed, a, b).detach().clamp(1e-3, 100.0)
    return (beta_cdf(fixed, a, b) + slope * (wide - fixed)).to(x.dtype)


def _check(name: str, parameter: Parameter, above: float = float("inf")) -> None:
    """Refuse a number that is out of range; of tensors, which may lie on a GPU, nothing is asked.

    Raises:
        ValueError: it is.
    """
    if not isinstance(parameter, Tensor) and not 0.0 < parameter < above:
        limits = "above 0 and finite" if above == float("inf") else f"between 0 and {above:g}"
        raise ValueError(f"{name} of a prior must be {limits}, got {parameter}")
