"""Time operators and models: ``python tools/benchmark.py operator``, ``python tools/benchmark.py model vig_s``."""

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Lets a checkout be used without installing it.
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from gatedvision.benchmark import Report, benchmark_attention, benchmark_models  # noqa: E402
from gatedvision.engine.launch import exit_with_message  # noqa: E402


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Time operators and models, on the GPU where there is one.")
    commands = parser.add_subparsers(required=True)
    operator = commands.add_parser("operator", help="bidirectional gated linear attention beside its peers")
    operator.set_defaults(benchmark=benchmark_attention)
    operator.add_argument("--batch", type=int, default=128)
    operator.add_argument("--tokens", type=int, default=196)
    operator.add_argument("--heads", type=int, default=6)
    operator.add_argument("--key-width", type=int, default=32, help="of a head, for queries too")
    operator.add_argument("--value-width", type=int, default=64, help="of a head")
    operator.add_argument("--bandwidth", type=float, default=3.0, help="of the memory, TB/s, for the floor")
    operator.add_argument("--seconds", type=float, default=0.5, help="to spend on each measurement")

    model = commands.add_parser("model", help="images per second of timm's models, these included")
    model.set_defaults(benchmark=benchmark_models)
    model.add_argument("names", nargs="+", metavar="NAME")
    model.add_argument("--batch-size", type=int, default=128)
    model.add_argument("--img-size", type=int, default=224, help="side of an image, pixels")
    model.add_argument("--mode", choices=["inference", "training", "both"], default="both")
    model.add_argument(
        "--compile",
        nargs="?",
        const="default",
        choices=["default", "reduce-overhead", "max-autotune"],
        help="compile the model, in a mode of torch.compile; reduce-overhead replays CUDA graphs",
    )
    model.add_argument("--channels-last", action="store_true", help="lay weights and images out with channels last")
    model.add_argument("--seconds", type=float, default=3.0, help="to spend on each measurement")

    for command in (operator, model):
        command.add_argument("--dtype", choices=["bf16", "fp16", "fp32"], default="bf16")
        command.add_argument("--out", type=Path, help="file for the results as JSON")
    return parser.parse_args()


def print_report(benchmark: Callable[..., Report], out: Path | None, **arguments: Any) -> None:
    """Run a benchmark and print its table, last."""
    command = shlex.join(["python", *sys.argv])
    report = benchmark(**arguments)
    if out is not None:
        report.write_json(out, command)
    print(report.to_markdown(command))


if __name__ == "__main__":
    exit_with_message(print_report, **vars(parse_args()))
