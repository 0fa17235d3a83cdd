"""Draw what models reach against the resolution of their images. Needs matplotlib, of the extra ``demo``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, NullLocator

from gatedvision.benchmark.model import MEMORY, RATE
from gatedvision.benchmark.report import Report


def draw_models(report: Report, path: Path) -> None:
    """Draw throughput and, where there is any, memory against resolution, one column for each mode.

    Args:
        report: of :func:`~gatedvision.benchmark.benchmark_models`.
        path: the picture.
    """
    rates = [{**row, RATE: row[RATE] and row[RATE].median} for row in report.rows]
    labels = {RATE: "images per second", MEMORY: "peak memory (GiB)"}
    labels = {name: label for name, label in labels.items() if any(row[name] is not None for row in rates)}
    modes = list(dict.fromkeys(row["mode"] for row in rates))
    figure = Figure(figsize=(6.5 * len(modes), 4.5 * len(labels)), layout="constrained")
    grid = figure.subplots(len(labels), len(modes), squeeze=False)
    for line, (quantity, label) in zip(grid, labels.items(), strict=True):
        for axes, mode in zip(line, modes, strict=True):
            _draw_panel(axes, [row for row in rates if row["mode"] == mode], quantity)
            axes.set(title=mode, ylabel=label)
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", fontsize=8)
    figure.suptitle(report.title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _draw_panel(axes: Axes, rows: Sequence[dict[str, Any]], quantity: str) -> None:
    for model, form, batch in dict.fromkeys((row["model"], row["form"], row["batch"]) for row in rows):
        chosen = [row for row in rows if (row["model"], row["form"], row["batch"]) == (model, form, batch)]
        # Whatever could not be measured leaves a gap.
        points = [(row["size"], float("nan") if row[quantity] is None else row[quantity]) for row in chosen]
        style = "-" if form == "eager" else "--"
        axes.plot(*zip(*sorted(points), strict=True), style, marker="o", label=f"{model}, {form}, batch {batch}")
    sizes = sorted({row["size"] for row in rows})
    axes.set(xscale="log", yscale="log", xlabel="side of an image (pixels)")
    axes.set_xticks(sizes, labels=[str(size) for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    # Numbers without powers, within a decade too.
    axes.yaxis.set_major_formatter(LogFormatter(labelOnlyBase=False))
    axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
    axes.grid(alpha=0.3)
