import copy
import json
from pathlib import Path
from typing import Any

import pytest

from gatedvision.benchmark.compare import compare_runs

ROW = {"model": "vig_t", "mode": "training", "form": "eager", "size": 224, "batch": 8}
OLD: dict[str, Any] = {
    "device": "H100",
    "title": "bf16, yardstick deit",
    "versions": {"torch": "2.11.0", "triton": None},
    "command": "python tools/benchmark.py model vig_t --yardstick deit",
    "rows": [
        {**ROW, "model": "deit", "times yardstick": 1.0, "peak memory (GiB)": 4.0},
        {**ROW, "times yardstick": 2.0, "peak memory (GiB)": 3.0},
        {**ROW, "form": "default", "times yardstick": 2.5, "peak memory (GiB)": None},
    ],
}


@pytest.fixture
def compare(tmp_path: Path):
    """Compare OLD with itself after changes to the columns of its second row, or to what is above the rows."""

    def run(changes: dict[str, Any], tolerance: float = 0.05, partial: bool = False, **above: Any):
        new = {**copy.deepcopy(OLD), **above}
        new["rows"][min(1, len(new["rows"]) - 1)].update(changes)
        for name, content in {"new": new, "old": OLD}.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return compare_runs(tmp_path / "new.json", tmp_path / "old.json", tolerance, partial)

    return run


def test_a_table_of_what_changed(compare):
    rows, regressions = compare({"times yardstick": 2.1})
    assert regressions == []
    assert [row["change (%)"] for row in rows] == pytest.approx([0, 5, 0])
    assert {**ROW, "old times yardstick": 2.0, "new times yardstick": 2.1}.items() <= rows[1].items()
    assert rows[0]["new peak memory (GiB)"] == 4.0 and rows[2]["old peak memory (GiB)"] is None


@pytest.mark.parametrize(
    ("changes", "regression"),
    [
        ({"times yardstick": 1.91}, None),
        ({"times yardstick": 1.89}, "1.89 times yardstick (-5.5 %)"),
        ({"times yardstick": None}, "vig_t, training, eager, 224 pixels, batch 8: was not timed"),
        ({"peak memory (GiB)": 3.1}, None),
        ({"peak memory (GiB)": 3.3}, "vig_t, training, eager, 224 pixels, batch 8: 3 to 3.3 GiB (+10.0 %)"),
    ],
)
def test_regressions(compare, changes, regression):
    _, regressions = compare(changes)
    assert len(regressions) == (regression is not None)
    assert regression is None or regressions[0].endswith(regression)


def test_the_tolerance(compare):
    assert compare({"times yardstick": 1.6}, tolerance=0.25).regressions == []
    assert len(compare({"times yardstick": 1.99}, tolerance=0.0).regressions) == 1
    with pytest.raises(ValueError, match="tolerance must be at least 0 and below 1, got 1"):
        compare({}, tolerance=1)


def test_some_of_the_models(compare):
    other = {**OLD["rows"][0], "model": "another"}
    rows, regressions = compare({"times yardstick": 1.0}, partial=True, rows=[*copy.deepcopy(OLD["rows"][:2]), other])
    assert [row["model"] for row in rows] == ["deit", "vig_t"]
    assert len(regressions) == 1
    with pytest.raises(ValueError, match="have no model, mode, form, size and batch in common"):
        compare({}, partial=True, rows=[other])


@pytest.mark.parametrize(
    ("above", "message"),
    [
        ({"device": "H200"}, "device differs: 'H200' in '.*new.json', 'H100' in"),
        ({"title": "fp16"}, "title differs: 'fp16' in"),
        ({"rows": OLD["rows"][:2]}, r"new.json' lacks 1 rows of the other: vig_t, training, default, 224 pixels"),
        ({"rows": [*OLD["rows"], {**OLD["rows"][0], "size": 32}]}, "old.json' lacks 1 rows of the other: deit"),
        ({"rows": []}, "has no ratios"),
        ({"rows": [{**row, "times yardstick": None} for row in OLD["rows"]]}, "no ratios: time it with --yardstick"),
        ({"rows": [{"operator": "gla"}]}, "was not written by tools/benchmark.py model --out: 'model'"),
    ],
)
def test_runs_that_cannot_be_compared(compare, above, message, tmp_path):
    if not above.get("rows", [0]):
        (tmp_path / "empty.json").write_text(json.dumps({**OLD, "rows": []}))
        with pytest.raises(ValueError, match=message):
            compare_runs(tmp_path / "empty.json", tmp_path / "empty.json")
        return
    changes = {} if "rows" not in above else {"times yardstick": above["rows"][-1].get("times yardstick")}
    with pytest.raises(ValueError, match=message):
        compare(changes, **copy.deepcopy(above))


def test_no_report_at_all(tmp_path):
    path = tmp_path / "text.json"
    path.write_text("| table |")
    with pytest.raises(ValueError, match="text.json' was not written by"):
        compare_runs(path, path)
