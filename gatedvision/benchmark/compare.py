"""Has anything become slower? Two runs of the models' benchmark, each by its ratio to the yardstick timed beside it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from gatedvision.benchmark.model import MEMORY, RATIO
from gatedvision.benchmark.report import Cell

KEYS = ("model", "mode", "form", "size", "batch")
CONDITIONS = ("device", "title")
FACTS = (*CONDITIONS, "versions", "command")

Key = tuple[Any, ...]


class Comparison(NamedTuple):
    """What two runs have in common and where they differ.

    Args:
        rows: old and new figures of each model and condition.
        regressions: a line for each figure that has become worse.
    """

    rows: list[dict[str, Cell]]
    regressions: list[str]


def compare_runs(new: Path, old: Path, tolerance: float = 0.05, partial: bool = False) -> Comparison:
    """Compare rates, as ratios to the yardstick of their run, and peak memory, which needs none.

    Args:
        new: JSON of a run of :func:`~gatedvision.benchmark.benchmark_models` with a yardstick.
        old: that of the run it should not fall behind, on the same kind of device and with the same arguments.
        tolerance: relative loss of rate, and growth of memory, that is no regression, 0 to 1.
        partial: compare what is in both, as of a new run of some models with a table of all.

    Raises:
        ValueError: a file is no such run, or the two are not of the same device, options, models and sizes, or have
            nothing in common.
    """
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance must be at least 0 and below 1, got {tolerance}")
    found, known = read_run(new), read_run(old)
    for condition in CONDITIONS:
        if found[condition] != known[condition]:
            raise ValueError(f"{condition} differs: {found[condition]!r} in '{new}', {known[condition]!r} in '{old}'")
    found_rows, known_rows = found["rows"], known["rows"]
    if partial:
        known_rows = {key: row for key, row in known_rows.items() if key in found_rows}
        found_rows = {key: found_rows[key] for key in known_rows}
        if not known_rows:
            raise ValueError(f"'{new}' and '{old}' have no model, mode, form, size and batch in common")
    for path, missing in {new: known_rows.keys() - found_rows, old: found_rows.keys() - known_rows}.items():
        if missing:
            raise ValueError(f"'{path}' lacks {len(missing)} rows of the other: {_names(missing)}")
    rows: list[dict[str, Cell]] = []
    regressions: list[str] = []
    for key, before in known_rows.items():
        after = found_rows[key]
        change = _change(after[RATIO], before[RATIO])
        growth = _change(after[MEMORY], before[MEMORY])
        row = dict(zip(KEYS, key, strict=True))
        row |= {f"old {RATIO}": before[RATIO], f"new {RATIO}": after[RATIO], "change (%)": change}
        rows.append({**row, f"old {MEMORY}": before[MEMORY], f"new {MEMORY}": after[MEMORY]})
        if before[RATIO] is not None and after[RATIO] is None:
            regressions.append(f"{name_of(key)}: was not timed")
        if change is not None and change < -100 * tolerance:
            regressions.append(f"{name_of(key)}: {before[RATIO]:.3g} to {after[RATIO]:.3g} {RATIO} ({change:+.1f} %)")
        if growth is not None and growth > 100 * tolerance:
            regressions.append(f"{name_of(key)}: {before[MEMORY]:.3g} to {after[MEMORY]:.3g} GiB ({growth:+.1f} %)")
    return Comparison(rows, regressions)


def read_run(path: Path) -> dict[str, Any]:
    """Read what a run of models with a yardstick wrote, its ``rows`` by their :data:`KEYS`.

    Raises:
        ValueError: the file is no such run.
    """
    try:
        content = json.loads(path.read_text())
        rows: dict[Key, dict[str, Any]] = {tuple(row[key] for key in KEYS): row for row in content["rows"]}
        read = {**{name: content[name] for name in FACTS}, "rows": rows}
        timed = any(row[RATIO] is not None for row in rows.values())
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'{path}' was not written by tools/benchmark.py model --out: {error}") from error
    if not timed:
        raise ValueError(f"'{path}' has no ratios: time it with --yardstick MODEL")
    return read


def _change(after: float | None, before: float | None) -> float | None:
    """Return the change in per cent."""
    return None if after is None or before is None else 100 * (after / before - 1)


def name_of(key: Key) -> str:
    """Name what was timed."""
    model, mode, form, size, batch = key
    return f"{model}, {mode}, {form}, {size} pixels, batch {batch}"


def _names(keys: set[Key]) -> str:
    return "; ".join(sorted(map(name_of, keys)))
