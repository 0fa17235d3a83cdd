"""What a benchmark found, as a Markdown table and as JSON."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from gatedvision.benchmark.timing import Spread

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

Cell = str | float | Spread | None


@dataclass(frozen=True)
class Report:
    """A table and where it was measured.

    Args:
        title: precision and shape of what was measured.
        rows: one dictionary per row, all with the same keys: the columns.
    """

    title: str
    rows: list[dict[str, Any]]

    def to_markdown(self, command: str) -> str:
        """Return one line with device, versions, title and command, and the table below it."""
        return markdown_of(self._content(command))

    def write(self, path: Path, command: str) -> None:
        """Write the report as JSON, and beside it, as ``.md``, as Markdown."""
        self.write_json(path, command)
        path.with_suffix(".md").write_text(f"{self.to_markdown(command)}\n")

    def write_json(self, path: Path, command: str) -> None:
        """Write the same, unrounded, as JSON; a spread has ``median``, ``low`` and ``high``."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self._content(command), indent=2, default=asdict) + "\n")

    def _content(self, command: str) -> dict[str, Any]:
        return {
            "device": device_name(),
            "versions": package_versions(),
            "title": self.title,
            "command": command,
            "rows": self.rows,
        }


def markdown_of(content: dict[str, Any]) -> str:
    """Return what a report wrote as JSON, or would, as :meth:`Report.to_markdown` does."""
    versions = ", ".join(f"{name} {number or 'not installed'}" for name, number in content["versions"].items())
    head = f"{content['device']}; {versions}; {content['title']}; `{content['command']}`"
    return f"{head}\n\n{markdown_table(content['rows'])}"


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows of the same keys as a table, numbers with four digits and ``n/a`` for ``None``."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_text(row[name]) for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def check_out(path: Path) -> Path:
    """Return a file for a report if it can be one, and make its folder.

    Raises:
        ValueError: its name does not end in ``.json``.
    """
    if path.suffix != ".json":
        raise ValueError(f"the file of the results must end in .json, got '{path}'; the table goes beside it as .md")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def current_device() -> torch.device:
    """Return the GPU where there is one, and the CPU otherwise."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """Name the device that is measured."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"


def package_versions() -> dict[str, str | None]:
    """Return the versions of the packages that decide the speed, ``None`` for one that is missing."""
    versions: dict[str, str | None] = {"torch": torch.__version__}
    for package in ("triton", "timm", "fla-core"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions


def _text(cell: Cell | dict[str, float]) -> str:
    if cell is None:
        return "n/a"
    # As JSON keeps it.
    if isinstance(cell, dict):
        cell = Spread(**cell)
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
