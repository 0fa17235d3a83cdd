"""Time operators, blocks and models: the library side of ``tools/benchmark.py``."""

from gatedvision.benchmark.attention import benchmark_attention
from gatedvision.benchmark.blocks import benchmark_blocks
from gatedvision.benchmark.compare import Comparison, compare_runs
from gatedvision.benchmark.experts import benchmark_experts
from gatedvision.benchmark.merge import merge_runs
from gatedvision.benchmark.mixed_scale import benchmark_mixed_scale
from gatedvision.benchmark.model import benchmark_models
from gatedvision.benchmark.plain_models import benchmark_plain
from gatedvision.benchmark.report import Report
from gatedvision.benchmark.tuning import tune_kernels

__all__ = [
    "Comparison",
    "Report",
    "benchmark_attention",
    "benchmark_blocks",
    "benchmark_experts",
    "benchmark_mixed_scale",
    "benchmark_models",
    "benchmark_plain",
    "compare_runs",
    "merge_runs",
    "tune_kernels",
]
