"""Draw quality against cost of gated runs: ``python tools/plot_costs.py WORK_DIR... --out OUT.png``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Lets a checkout be used without installing it.
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import matplotlib.pyplot as plt  # noqa: E402

from gatedvision.engine.cfg_options import CfgOptions  # noqa: E402
from gatedvision.engine.cost_curve import BASELINES, CostPoint, measure_costs  # noqa: E402
from gatedvision.engine.launch import exit_with_message  # noqa: E402

DESCRIPTION = """\
Evaluate MSViT runs of several targets on the test data of their configs, and their weights with the same share of fine
regions at random places and in the centre; draw them, and other runs, by what an image costs.
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    parser.add_argument("runs", nargs="*", type=Path, metavar="WORK_DIR", help="runs of MSViT, one for each target")
    parser.add_argument(
        "--also",
        nargs="+",
        action="append",
        default=[],
        metavar=("LABEL", "WORK_DIR"),
        help="further runs under a name, of any backbone; may be repeated",
    )
    parser.add_argument("--baselines", nargs="*", default=list(BASELINES), help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("costs.png"), help="the picture (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="the points as JSON (default: beside the picture)")
    parser.add_argument(
        "--weights", choices=["ema", "raw"], default="ema", help="the moving average where there is one, or not"
    )
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: the GPU where there is one)")
    parser.add_argument("--cfg-options", nargs="+", action=CfgOptions, metavar="KEY=VALUE", help="of every run")
    return parser.parse_args()


def plot_costs(also: Sequence[Sequence[str]], out: Path, json: Path | None, **options: Any) -> None:
    """Evaluate runs, print their points as a table, and draw them.

    Raises:
        ValueError: a name has no runs.
    """
    others: dict[str, list[Path]] = {}
    for label, *folders in also:
        if not folders:
            raise ValueError(f"--also {label} names no work directory")
        others[label] = [*others.get(label, []), *map(Path, folders)]
    points = measure_costs(others=others, out=json or out.with_suffix(".json"), **options)
    print("| series | fine regions (%) | GMACs | quality (%) | checkpoint |\n| --- | ---: | ---: | ---: | --- |")
    for point in points:
        share = "" if point.fine_share is None else f"{100 * point.fine_share:.1f}"
        print(f"| {point.series} | {share} | {point.gmacs:.4g} | {point.quality:.2f} | {point.checkpoint} |")
    out.parent.mkdir(parents=True, exist_ok=True)
    _draw(points).savefig(out, dpi=120)
    print(f"drew '{out}': {len(points)} points")


def _draw(points: Sequence[CostPoint]) -> Any:
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for series in dict.fromkeys(point.series for point in points):
        chosen = [point for point in points if point.series == series]
        axes.plot([point.gmacs for point in chosen], [point.quality for point in chosen], marker="o", label=series)
    axes.set(xlabel="multiply-adds for an image, mean (billions)", ylabel="top-1 accuracy or mean IoU (%)")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


if __name__ == "__main__":
    exit_with_message(plot_costs, **vars(parse_args()))
