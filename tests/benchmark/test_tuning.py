import json
from collections.abc import Iterator

import pytest
import torch

from gatedvision.benchmark import tune_kernels, tuning
from gatedvision_kernels import _tuning
from gatedvision_kernels._tuning import KNOBS, override, setting, tuning_file

# Milliseconds of numbers that are not the default; all else takes 10.
TIMES = {
    ("row_programs", 8): 5.0,
    ("mix_elements", 2048): 9.9,
    ("row_elements", 1024): 9.0,
    ("row_elements", 2048): 8.0,
}
FAILS = {("attention_registers", 0), ("attention_programs", 2)}


@pytest.fixture
def tried(tmp_path, monkeypatch) -> Iterator[list[tuple[str, int, dict[str, int]]]]:
    """Pretend that there is a GPU with these times, and note what is tried while which numbers hold."""
    tried: list[tuple[str, int, dict[str, int]]] = []

    def time(knob, value, calls, seconds):
        tried.append((knob, value, {name: setting(name) for name in KNOBS}))
        return None if (knob, value) in FAILS else TIMES.get((knob, value), 10.0)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(tuning, "make_passes", lambda name, dtype: lambda: None)
    monkeypatch.setattr(tuning, "_time", time)
    _tuning._settings.cache_clear()
    yield tried
    _tuning._settings.cache_clear()


def test_the_best_are_kept(tried):
    report = tune_kernels()
    best = {
        str(row["number"]): (row["default"], row["best"], row["default (ms)"], row["best (ms)"]) for row in report.rows
    }
    assert best == {
        "row_elements": ("4096", "2048", 10.0, 8.0),
        "mix_elements": ("1024", "1024", 10.0, 10.0),  # a hundredth is noise
        "aggregation_elements": ("1024", "1024", 10.0, 10.0),
        "row_programs": ("4", "8", 10.0, 5.0),
        "attention_programs": ("3", "3", 10.0, 10.0),
        "attention_registers": ("168", "168", 10.0, 10.0),
    }
    changed = {"row_elements": 2048, "row_programs": 8}
    assert {name: setting(name) for name in KNOBS} == {name: knob.default for name, knob in KNOBS.items()} | changed
    assert json.loads(tuning_file().read_text())["Some GPU"].items() >= changed.items()
    assert str(tuning_file()) in report.title
    # What was found holds for what is tried later.
    assert {held["row_elements"] for knob, _, held in tried if knob == "mix_elements"} == {2048}


def test_what_cannot_run_by_default_is_left(tried, monkeypatch):
    monkeypatch.setattr(tuning, "_time", lambda *args: None)
    assert {row["best"] for row in tune_kernels().rows} == {str(knob.default) for knob in KNOBS.values()}


@pytest.mark.parametrize("name", tuning.OPERATORS)
def test_operators_run(name, monkeypatch):
    operator, shapes = tuning.OPERATORS[name]
    small = [(2, *shape[1:]) if shape[0] > 600 else shape for shape in shapes]
    small = [(1, 40, *shape[2:]) if len(shape) == 4 else shape for shape in small]
    monkeypatch.setitem(tuning.OPERATORS, name, (operator, small))
    gradients = tuning.make_passes(name, torch.float32)()
    assert [gradient.shape for gradient in gradients] == list(map(torch.Size, small))


def test_every_number_has_users():
    assert tuning.USERS.keys() == KNOBS.keys()
    assert {name for users in tuning.USERS.values() for name in users} == tuning.OPERATORS.keys()


def test_a_number_holds_while_it_is_timed(monkeypatch):
    seen = []
    monkeypatch.setattr(tuning, "time_replay", lambda *args, **options: seen.append(setting("row_programs")))
    with override(row_programs=2):
        assert tuning._time("row_programs", 8, dict.fromkeys(tuning.OPERATORS), 0.1) is None
        assert (seen, setting("row_programs")) == ([8], 2)


def test_bad_input_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="there is no GPU to tune kernels for"):
        tune_kernels()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match="seconds must be positive, got 0"):
        tune_kernels(seconds=0)
