"""Draw V-MoE's accuracy against its capacity: ``python tools/sweep_capacity.py CONFIG CHECKPOINT --out FOLDER``."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Lets a checkout be used without installing it.
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from gatedvision.engine.capacity_sweep import CAPACITIES, sweep_capacity  # noqa: E402
from gatedvision.engine.cfg_options import CfgOptions  # noqa: E402
from gatedvision.engine.launch import exit_with_message  # noqa: E402
from gatedvision.layers.moe_routing import PRIORITIES  # noqa: E402

DESCRIPTION = """\
Evaluate a trained V-MoE with several capacities, priorities and numbers of chosen experts, in one pass over the test
data; time each; print a table, and write it beside a picture and JSON.
"""
RATE = "images/s (20–80 %)"


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    parser.add_argument("config", type=Path, help="config file, such as configs/vmoe/vmoe_nano_digits.py")
    parser.add_argument("checkpoint", type=Path, help="checkpoint, or a work directory, meaning its last one")
    parser.add_argument(
        "--out", "-o", type=Path, help="folder for capacity.png, .md and .json (default: that of the checkpoint)"
    )
    parser.add_argument(
        "--capacity", type=float, nargs="+", default=list(CAPACITIES), metavar="FACTOR", help="inf drops nothing"
    )
    parser.add_argument("--priority", nargs="+", choices=PRIORITIES, help="who gets the slots (default: compare both)")
    parser.add_argument(
        "--num-selected", type=int, nargs="+", metavar="K", help="experts a token chooses (default: as trained)"
    )
    parser.add_argument(
        "--weights", choices=["ema", "raw"], default="ema", help="the moving average where there is one, or not"
    )
    parser.add_argument("--amp", choices=["bf16", "fp16"], help="mixed precision in place of the config's")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: the GPU where there is one)")
    parser.add_argument("--seconds", type=float, default=1.0, help="to spend on each timing (default: %(default)s)")
    parser.add_argument("--cfg-options", nargs="+", action=CfgOptions, metavar="KEY=VALUE", help="replace settings")
    return parser.parse_args()


def main(checkpoint: Path, out: Path | None, **options: Any) -> None:
    """Evaluate, write and print."""
    folder = out or (checkpoint if checkpoint.is_dir() else checkpoint.parent)
    command = shlex.join(["python", *sys.argv])
    report = sweep_capacity(checkpoint=checkpoint, **options)
    report.write_json(folder / "capacity.json", command)
    table = report.to_markdown(command)
    (folder / "capacity.md").write_text(f"{table}\n")
    _draw(report.rows).savefig(folder / "capacity.png", dpi=120)
    print(f"{table}\n\ndrew '{folder / 'capacity.png'}'")


def _draw(rows: Sequence[dict[str, Any]]) -> Any:
    # Whatever was varied most is the axis.
    axis, other = "capacity", "experts a token"
    if len({row[axis] for row in rows}) < len({row[other] for row in rows}):
        axis, other = other, axis
    quality = next(name for name in rows[0] if name.startswith("accuracy/"))
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for priority, value in dict.fromkeys((row["priority"], row[other]) for row in rows):
        chosen = [row for row in rows if (row["priority"], row[other]) == (priority, value)]
        fixed = f"{value} {other}" if other == "experts a token" else f"{other} {value:g}"
        label = fixed if priority is None else f"{priority}, {fixed}"
        _draw_series(left, axis, [(row[axis], row[quality]) for row in chosen], label)
        _draw_series(right, axis, [(row[axis], row[RATE].median) for row in chosen], label)
    left.set(xlabel=axis, ylabel=f"{quality.removeprefix('accuracy/')} accuracy (%)")
    right.set(xlabel=axis, ylabel="images per second")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def _draw_series(axes: Axes, axis: str, points: Sequence[tuple[float, float]], label: str) -> None:
    finite = sorted(point for point in points if point[0] != float("inf"))
    (line,) = axes.plot([x for x, _ in finite], [y for _, y in finite], marker="o", label=label)
    for _, y in set(points) - set(finite):
        axes.axhline(y, linestyle=":", color=line.get_color(), label=f"{label}, nothing dropped")


if __name__ == "__main__":
    exit_with_message(main, **vars(parse_args()))
