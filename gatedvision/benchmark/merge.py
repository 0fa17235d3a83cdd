"""One table of several runs of models, of one device and one yardstick."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gatedvision.benchmark.compare import Key, name_of, read_run
from gatedvision.benchmark.report import check_out, markdown_of

CONDITIONS = ("device", "versions", "title")


def merge_runs(runs: Sequence[Path], out: Path, command: str) -> str:
    """Put runs together, which may be of different models, sizes and forms, and write them as one.

    Each ratio stays that to the yardstick of its own run. Where the yardstick itself was timed under the same condition
    in several runs, the figures of the first are kept.

    Args:
        runs: JSON of runs of :func:`~gatedvision.benchmark.benchmark_models` with a yardstick.
        out: JSON that :func:`~gatedvision.benchmark.compare_runs` takes; the table goes beside it, as ``.md``.
        command: what was typed, for the table.

    Returns:
        The table.

    Raises:
        ValueError: a file is no such run, runs are not of the same device, versions and options, or a model was timed
            twice under the same condition.
    """
    check_out(out)
    rows: dict[Key, dict[str, Any]] = {}
    commands: list[str] = []
    head = read_run(runs[0])
    for path in runs:
        found = read_run(path)
        for condition in CONDITIONS:
            if found[condition] != head[condition]:
                raise ValueError(
                    f"{condition} differs: {found[condition]!r} in '{path}', {head[condition]!r} in '{runs[0]}'"
                )
        for key, row in found["rows"].items():
            if key in rows and not found["title"].endswith(f"yardstick {row['model']}"):
                raise ValueError(f"{name_of(key)}, was timed twice, in '{path}' and in a run before it: leave one out")
            rows.setdefault(key, row)
        commands.append(found["command"])
    merged = {name: head[name] for name in CONDITIONS}
    merged |= {"command": command, "runs": commands, "rows": list(rows.values())}
    out.write_text(json.dumps(merged, indent=1, ensure_ascii=False) + "\n")
    table = markdown_of(merged)
    out.with_suffix(".md").write_text(f"{table}\n")
    return table
