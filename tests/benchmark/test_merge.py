import json
from pathlib import Path
from typing import Any

import pytest

from gatedvision.benchmark.compare import compare_runs
from gatedvision.benchmark.merge import merge_runs

CONDITION = {"mode": "training", "form": "eager", "size": "224", "batch": 8}


def make_run(model: str, rate: float, yardstick: float = 100.0, **above: Any) -> dict[str, Any]:
    rows = [
        {
            "model": name,
            **CONDITION,
            "images/s (20–80 %)": {"median": value, "low": value - 1, "high": value + 1},
            "times yardstick": value / yardstick,
            "peak memory (GiB)": None,
        }
        for name, value in {"deit": yardstick, model: rate}.items()
    ]
    run = {"device": "H100", "versions": {"torch": "2.11.0", "triton": None}, "title": "bf16, yardstick deit"}
    return {**run, "command": f"python tools/benchmark.py model {model}", "rows": rows, **above}


@pytest.fixture
def merge(tmp_path: Path):
    def run(*contents: dict[str, Any]) -> dict[str, Any]:
        paths = [tmp_path / f"{i}.json" for i in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_text(json.dumps(content))
        table = merge_runs(paths, tmp_path / "new" / "all.json", "python tools/benchmark.py merge")
        assert (tmp_path / "new" / "all.md").read_text() == f"{table}\n"
        return json.loads((tmp_path / "new" / "all.json").read_text())

    return run


def test_all_rows_and_the_first_of_the_yardstick(merge):
    merged = merge(make_run("vig_t", 300.0), make_run("vig_s", 140.0, yardstick=70.0))
    ratios = {row["model"]: (row["images/s (20–80 %)"]["median"], row["times yardstick"]) for row in merged["rows"]}
    assert ratios == {"deit": (100, 1), "vig_t": (300, 3), "vig_s": (140, 2)}
    assert merged["runs"] == [f"python tools/benchmark.py model {name}" for name in ("vig_t", "vig_s")]


def test_the_table(merge, tmp_path):
    merge(make_run("vig_t", 300.0))
    head, _, *lines = (tmp_path / "new" / "all.md").read_text().splitlines()
    assert head == "H100; torch 2.11.0, triton not installed; bf16, yardstick deit; `python tools/benchmark.py merge`"
    assert lines[-1] == "| vig_t | training | eager | 224 | 8 | 300 (299–301) | 3 | n/a |"


def test_later_runs_compare_with_it(merge, tmp_path):
    merge(make_run("vig_t", 300.0), make_run("vig_s", 140.0))
    new = tmp_path / "later.json"
    new.write_text(json.dumps(make_run("vig_s", 120.0)))
    _, (regression,) = compare_runs(new, tmp_path / "new" / "all.json", partial=True)
    assert regression.startswith("vig_s, training, eager")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "H200"}, "device differs: 'H200' in .*1.json', 'H100' in .*0.json'"),
        ({"versions": {"torch": "2.12.0", "triton": None}}, "versions differs"),
        ({"title": "fp16, yardstick deit"}, "title differs"),
    ],
)
def test_other_conditions_are_refused(merge, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        merge(make_run("vig_t", 300.0), make_run("vig_s", 140.0, **change))
    assert not (tmp_path / "new" / "all.json").exists()


def test_a_model_that_was_timed_twice_is_refused(merge):
    with pytest.raises(ValueError, match=r"vig_t, training, eager, 224 pixels, batch 8, was timed twice, in .*1.json'"):
        merge(make_run("vig_t", 300.0), make_run("vig_t", 310.0))


def test_a_file_that_is_no_run_is_refused(merge):
    with pytest.raises(ValueError, match=r"1.json' was not written by tools/benchmark.py"):
        merge(make_run("vig_t", 300.0), {"rows": []})
