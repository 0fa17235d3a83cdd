import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gatedvision_kernels import bidirectional_gla

TOOL = Path(__file__).parents[2] / "tools" / "benchmark.py"
SMALL = [
    "--batch",
    "1",
    "--tokens",
    "5",
    "--heads",
    "1",
    "--key-width",
    "16",
    "--value-width",
    "32",
    "--seconds",
    "0.01",
]


@pytest.fixture
def benchmark(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Run the script in this process; returns exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tools/benchmark.py", *map(str, arguments)])
        monkeypatch.setattr(sys, "path", sys.path[:])
        code = 0
        try:
            runpy.run_path(str(TOOL), run_name="__main__")
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else 0
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def test_operator_table(benchmark):
    code, output, errors = benchmark("operator", *SMALL, "--dtype", "fp32")
    assert code == 0, errors
    where, empty, head, rule, *rows = output.splitlines()
    assert "; fp32, batch 1, tokens 5, heads 1, key width 16, value width 32, floor at 3 TB/s; " in where
    assert where.endswith(f"/tools/benchmark.py operator {' '.join(SMALL)} --dtype fp32`")
    assert all(f"{package} " in where for package in ("torch", "triton", "timm", "fla-core"))
    assert empty == "" and head.startswith("| operator | pass |") and set(rule) == set("|- ")
    assert len({line.count("|") for line in (head, rule, *rows)}) == 1
    assert rows[1].startswith("| gatedvision bidirectional_gla | forward + backward |")


def test_models_as_json(benchmark, tmp_path):
    out = tmp_path / "new" / "models.json"
    sizes = ["--batch-size", "1", "--img-size", "32", "--seconds", "0.01", "--dtype", "fp32"]
    code, output, errors = benchmark("model", "vig_t", *sizes, "--mode", "inference", "--out", out)
    assert code == 0, errors
    content = json.loads(out.read_text())
    [row] = content["rows"]
    assert row["images/s (20–80 %)"].keys() == {"median", "low", "high"}
    assert f"{row['images/s (20–80 %)']['median']:.4g} (" in output.splitlines()[-1]
    assert content["command"] in output and content["versions"]["torch"]


def test_a_wrong_operator_is_not_timed(benchmark, monkeypatch):
    monkeypatch.setattr("gatedvision.benchmark.attention.bidirectional_gla", lambda *x: 2 * bidirectional_gla(*x))
    code, output, errors = benchmark("operator", *SMALL)
    assert (code, output) == (2, "")
    assert errors == "error: not timed, output is wrong: relative error 1, limit 0.01\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model", "vig_x"], "unknown model 'vig_x': timm.list_models() has the known ones"),
        (["model", "vig_t", "--batch-size", "0"], "batch size must be positive, got 0"),
        (["operator", "--heads", "-1"], "heads must be positive, got -1"),
    ],
)
def test_mistakes_are_one_line(benchmark, arguments, message):
    assert benchmark(*arguments) == (2, "", f"error: {message}\n")
