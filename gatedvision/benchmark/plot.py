"""Draw what models reach against the resolution of their images and their floor. Needs matplotlib (extra ``demo``)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, NullLocator

from gatedvision.benchmark.model import FLOOR, MEMORY, RATE
from gatedvision.benchmark.report import Report


def draw_models(report: Report, path: Path) -> None:
    """Draw throughput and, where there is any, memory against resolution, and time against its floor, a column a mode.

    Args:
        report: of :func:`~gatedvision.benchmark.benchmark_models`.
        path: the picture.
    """
    # Volumes and images that are not square have no side to stand at.
    rows = [row for row in report.rows if isinstance(row["size"], int)]
    rates: list[dict[str, Any]] = [{**row, RATE: row[RATE] and row[RATE].median} for row in rows]
    labels = {RATE: "images per second", MEMORY: "peak memory (GiB)"}
    labels = {name: label for name, label in labels.items() if any(row[name] is not None for row in rates)}
    modes = list(dict.fromkeys(row["mode"] for row in rates))
    has_floors = any(row.get(FLOOR) is not None for row in rates)
    lines = len(labels) + has_floors
    figure = Figure(figsize=(6.5 * len(modes), 4.5 * lines), layout="constrained")
    grid = figure.subplots(lines, len(modes), squeeze=False)
    for line, (quantity, label) in zip(grid, labels.items(), strict=False):
        for axes, mode in zip(line, modes, strict=True):
            _draw_panel(axes, [row for row in rates if row["mode"] == mode], quantity)
            axes.set(title=mode, ylabel=label)
    if has_floors:
        for axes, mode in zip(grid[-1], modes, strict=True):
            _draw_distances(axes, [row for row in rates if row["mode"] == mode])
            axes.set(title=mode)
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", fontsize=8)
    figure.suptitle(report.title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _draw_panel(axes: Axes, rows: Sequence[dict[str, Any]], quantity: str) -> None:
    # Whatever could not be measured leaves a gap.
    _draw_curves(axes, rows, lambda row: (row["size"], float("nan") if row[quantity] is None else row[quantity]))
    sizes = sorted({row["size"] for row in rows})
    axes.set(xscale="log", yscale="log", xlabel="side of an image (pixels)")
    axes.set_xticks(sizes, labels=[str(size) for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    _number(axes.yaxis)
    axes.grid(alpha=0.3)


def _draw_distances(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    """Draw the time of a step against its floor, in the colours of the panels above; grey is 1, 2, 4 and 8 times it."""
    nothing = float("nan")

    def point(row: dict[str, Any]) -> tuple[float, float]:
        timed = row[FLOOR] and row[RATE]
        return (row[FLOOR], 1e3 * row["batch"] / row[RATE]) if timed else (nothing, nothing)

    _draw_curves(axes, rows, point)
    least = min((row[FLOOR] for row in rows if row[FLOOR]), default=1.0)
    for factor in (1, 2, 4, 8):
        axes.axline((least, factor * least), (2 * least, 2 * factor * least), color="grey", lw=0.5 + (factor == 1))
    axes.set(xscale="log", yscale="log", xlabel="floor of a step (ms)", ylabel="a step (ms)")
    _number(axes.xaxis)
    _number(axes.yaxis)
    axes.grid(alpha=0.3)


def _draw_curves(
    axes: Axes, rows: Sequence[dict[str, Any]], point: Callable[[dict[str, Any]], tuple[float, float]]
) -> None:
    """Draw a curve for each model, form and batch, from the smallest image to the largest."""
    for model, form, batch in dict.fromkeys((row["model"], row["form"], row["batch"]) for row in rows):
        chosen = [row for row in rows if (row["model"], row["form"], row["batch"]) == (model, form, batch)]
        points = [point(row) for row in sorted(chosen, key=lambda row: row["size"])]
        style = "-" if form == "eager" else "--"
        axes.plot(*zip(*points, strict=True), style, marker="o", label=f"{model}, {form}, batch {batch}")


def _number(axis: Axis) -> None:
    """Label a logarithmic axis with numbers without powers, within a decade too."""
    axis.set_major_formatter(LogFormatter(labelOnlyBase=False))
    axis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
