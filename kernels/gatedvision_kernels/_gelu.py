"""GELU inside kernels: value and slope from one exponential."""

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
