"""Time operators, layers and models, compare runs, tune kernels: ``python tools/benchmark.py model vig_s``."""

import argparse
import importlib
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Lets a checkout be used without installing it.
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from gatedvision import benchmark  # noqa: E402
from gatedvision.benchmark import arguments  # noqa: E402
from gatedvision.benchmark.report import check_out, markdown_table  # noqa: E402
from gatedvision.engine.launch import exit_with_message  # noqa: E402

BENCHMARKS = {
    "operator": (
        benchmark.benchmark_attention,
        arguments.add_operator,
        "bidirectional gated linear attention beside its peers",
    ),
    "blocks": (
        benchmark.benchmark_blocks,
        arguments.add_blocks,
        "the last block of each stage of HorNet and MogaNet, and its floor",
    ),
    "model": (
        benchmark.benchmark_models,
        arguments.add_model,
        "images per second of these models, timm's and others, in turns",
    ),
    "experts": (
        benchmark.benchmark_experts,
        arguments.add_experts,
        "a layer of experts beside its peers, by default V-MoE-B/16's",
    ),
    "scales": (
        benchmark.benchmark_mixed_scale,
        arguments.add_scales,
        "tokens of two scales beside timm's plain vision transformer",
    ),
    "tune": (
        benchmark.tune_kernels,
        arguments.add_tune,
        "numbers by which kernels are cut, for the GPU at hand, and keep the best",
    ),
    "plain": (
        benchmark.benchmark_plain,
        arguments.add_plain,
        "forward passes on the CPU beside forms in plain PyTorch",
    ),
}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Time operators, layers and models, on the GPU where there is one.")
    commands = parser.add_subparsers(required=True)
    for name, (timed, add_arguments, help) in BENCHMARKS.items():
        command = commands.add_parser(name, help=help)
        command.set_defaults(function=print_report, timed=timed)
        add_arguments(command)
        if name != "plain":
            command.add_argument("--dtype", choices=["bf16", "fp16", "fp32"], default="bf16")
        command.add_argument("--out", type=Path, metavar="FILE.json", help="for the results; the table goes to FILE.md")
    command = commands.add_parser("compare", help="a run of models with an older one; exit code 1 if it is worse")
    command.set_defaults(function=print_comparison)
    arguments.add_compare(command)
    command = commands.add_parser("merge", help="runs of models with a yardstick into one table")
    command.set_defaults(function=print_merged)
    arguments.add_merge(command)
    return parser.parse_args()


def print_report(
    timed: Callable[..., benchmark.Report], out: Path | None, plot: Path | None = None, **options: Any
) -> None:
    """Run a benchmark, write its results, print its table and draw it."""
    # What would keep the results from being written is said before hours of timing.
    if out is not None:
        check_out(out)
    drawing = None if plot is None else importlib.import_module("gatedvision.benchmark.plot")
    command = shlex.join(["python", *sys.argv])
    report = timed(**options)
    if out is not None:
        report.write(out, command)
    print(report.to_markdown(command))
    if drawing is not None:
        drawing.draw_models(report, plot)


def print_comparison(**options: Any) -> None:
    """Print two runs as a table, and each regression on stderr; leave with exit code 1 if there is one."""
    rows, regressions = benchmark.compare_runs(**options)
    print(markdown_table(rows))
    for regression in regressions:
        print(f"regression: {regression}", file=sys.stderr)
    sys.exit(1 if regressions else 0)


def print_merged(**options: Any) -> None:
    """Write several runs as one, and print their table."""
    print(benchmark.merge_runs(**options, command=shlex.join(["python", *sys.argv])))


if __name__ == "__main__":
    chosen = vars(parse_args())
    exit_with_message(chosen.pop("function"), **chosen)
