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
    assert out.with_suffix(".md").read_text() == output


def test_a_run_is_drawn_and_compared(benchmark, tmp_path):
    old, new, picture = tmp_path / "old.json", tmp_path / "new.json", tmp_path / "models.png"
    sizes = ["--batch", 1, "--size", 32, 64, "--seconds", 0.001, "--dtype", "fp32", "--mode", "inference"]
    models = ["test_resnet", "vig_t(depth=1)", "--yardstick", "test_resnet", "--compile", "eager"]
    code, _, errors = benchmark("model", *models, *sizes, "--out", old, "--plot", picture)
    assert code == 0, errors
    assert picture.stat().st_size > 0
    content = json.loads(old.read_text())
    content["rows"][3]["times yardstick"] *= 0.9
    new.write_text(json.dumps(content))
    code, output, errors = benchmark("compare", new, old)
    assert code == 1 and len(output.splitlines()) == 2 + 4
    assert errors.startswith("regression: vig_t(depth=1), inference, eager, 64 pixels, batch 1: ")
    assert errors.count("\n") == 1
    assert benchmark("compare", new, old, "--tolerance", 0.2)[0] == 0
    content["title"] = "fp16"
    new.write_text(json.dumps(content))
    code, output, errors = benchmark("compare", new, old)
    assert (code, output) == (2, "") and errors.startswith("error: title differs: 'fp16' in ")
    assert benchmark("compare", tmp_path / "nothing.json", old)[0] == 2


def test_runs_are_merged_and_compared_with(benchmark, tmp_path):
    merged = tmp_path / "new" / "all.json"
    runs = [tmp_path / f"{size}.json" for size in (32, 64)]
    for path in runs:
        options = ["--batch", 1, "--size", path.stem, "--seconds", 0.001, "--dtype", "fp32", "--mode", "inference"]
        code, _, errors = benchmark("model", "vig_t(depth=1)", "--yardstick", "test_resnet", *options, "--out", path)
        assert code == 0, errors
    code, output, errors = benchmark("merge", *runs, "--out", merged)
    assert code == 0 and len(output.splitlines()) == 4 + 4, errors
    assert json.loads(merged.read_text())["runs"] == [json.loads(path.read_text())["command"] for path in runs]
    assert benchmark("compare", runs[1], merged, "--partial")[0] == 0
    code, output, errors = benchmark("merge", *runs, runs[0], "--out", tmp_path / "twice.json")
    assert (code, output) == (2, "") and errors.startswith(
        "error: vig_t(depth=1), inference, eager, 32 pixels, batch 1,"
    )
    assert errors.count("\n") == 1 and not (tmp_path / "twice.json").exists()


def test_blocks_table(benchmark):
    name = "moganet_xtiny(dims=[16, 16, 16, 16], depths=[1, 1, 1, 1])"
    code, output, errors = benchmark("blocks", name, "--batch-size", 1, "--img-size", 64, "--seconds", 0.001)
    assert code == 0, errors
    assert len(output.splitlines()) == 4 + 8


def test_experts_table(benchmark):
    sizes = ["--images", 1, "--tokens", 9, "--width", 8, "--hidden", 16, "--experts", 4, "--capacities", 0.5]
    code, output, errors = benchmark("experts", *sizes, "--seconds", 0.001)
    assert code == 0, errors
    rows = [line.split(" | ") for line in output.splitlines()[4:]]
    assert len(rows) == 10
    assert rows[2][:3] == ["| gatedvision MoeMlp", "0.5", "forward"]


def test_a_wrong_operator_is_not_timed(benchmark, monkeypatch):
    monkeypatch.setattr("gatedvision.benchmark.attention.bidirectional_gla", lambda *x: 2 * bidirectional_gla(*x))
    code, output, errors = benchmark("operator", *SMALL)
    assert (code, output) == (2, "")
    assert errors == "error: not timed, output is wrong: relative error 1, limit 0.01\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["model", "vig_x"],
            "unknown model 'vig_x': timm.list_models() has the known ones, others are module:callable",
        ),
        (
            ["model", "vig_t", "--out", "table.md"],
            "the file of the results must end in .json, got 'table.md'; the table goes beside it as .md",
        ),
        (["model", "vig_t", "--batch-size", "0"], "batch size must be positive, got 0"),
        (["operator", "--heads", "-1"], "heads must be positive, got -1"),
        (["experts", "--images", "9"], "images must make equal groups of up to 8, got 9"),
        (
            ["experts", "--images", "1", "--capacities", "0"],
            "capacity_factor must be above 0, got 0.0: no expert had a slot",
        ),
        (["experts", "--experts", "1"], "num_selected must be 1 to 1, the experts, got 2"),
    ],
)
def test_mistakes_are_one_line(benchmark, arguments, message):
    assert benchmark(*arguments) == (2, "", f"error: {message}\n")
