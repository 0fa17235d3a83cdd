"""Time operators and models: the library side of ``tools/benchmark.py``."""

from gatedvision.benchmark.attention import benchmark_attention
from gatedvision.benchmark.model import benchmark_models
from gatedvision.benchmark.report import Report

__all__ = ["Report", "benchmark_attention", "benchmark_models"]
