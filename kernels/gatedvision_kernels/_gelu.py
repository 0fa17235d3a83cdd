"""GELU inside kernels, in both of its forms: value and slope from one exponential."""

from __future__ import annotations

from gatedvision_kernels._triton import jit, tl


@jit
def normal_distribution(x):
    """Return the share of the normal distribution that lies below ``x``, and its density there.

    With these two, ``gelu(x) = x * share`` has the slope ``share + x * density``.
    """
    density = 0.3989422804014327 * tl.exp(-0.5 * x * x)
    # To 7.5e-8, by M. Abramowitz and I. Stegun, Handbook of Mathematical Functions, 26.2.17: it shares the
    # exponential, and takes half the instructions of the library's error function.
    t = 1 / (1 + 0.2316419 * tl.abs(x))
    tail = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    tail *= density
    return tl.where(x < 0, tail, 1 - tail), density


@jit
def tanh_distribution(x):
    """Return what the tanh form takes for the share below ``x``, ``(1 + tanh(z)) / 2``, and its slope.

    With ``z = sqrt(2 / pi) (x + 0.044715 x^3)``. GELU and its slope follow as from :func:`normal_distribution`.
    """
    square = x * x
    # The same number, which keeps its digits where the hyperbolic tangent is close to -1.
    share = tl.sigmoid(1.5957691216057308 * x * (1 + 0.044715 * square))
    return share, share * (1 - share) * (1.5957691216057308 + 0.21406444881780073 * square)
