import json

import pytest
import torch

from gatedvision_kernels import (
    _tuning,
    bidirectional_gla,
    channel_aggregation,
    gated_norm_mix,
    rms_norm,
    swiglu,
)
from gatedvision_kernels._tuning import KNOBS, allowed, override, save_tuning, setting, tuning_file

GPU = "Some GPU"


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    """Give a test a file of its own, and a GPU of a name."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: GPU)
    _tuning._settings.cache_clear()
    yield
    _tuning._settings.cache_clear()


def test_defaults_without_a_file(own_file):
    assert {name: setting(name) for name in KNOBS} == {name: knob.default for name, knob in KNOBS.items()}


def test_numbers_are_kept_by_gpu(own_file):
    assert setting("row_programs") == 4
    assert save_tuning(GPU, {"row_programs": 2}) == tuning_file()
    save_tuning("Another", {"row_programs": 8})
    assert (setting("row_programs"), setting("row_elements")) == (2, 4096)
    assert json.loads(tuning_file().read_text()) == {GPU: {"row_programs": 2}, "Another": {"row_programs": 8}}
    assert [path.name for path in tuning_file().parent.iterdir()] == ["tuning.json"]


def test_numbers_of_other_releases_are_left_alone(own_file):
    save_tuning(GPU, {"row_programs": 3, "no_longer_there": 7, "mix_elements": 1024})
    assert (setting("row_programs"), setting("mix_elements")) == (4, 1024)


@pytest.mark.parametrize("content", ["no json", "[1]", '{"Some GPU": 3}'])
def test_a_broken_file_is_named(content, own_file):
    tuning_file().parent.mkdir(parents=True)
    tuning_file().write_text(content)
    with pytest.raises(ValueError, match=r"tuning.json' does not hold tuned numbers: delete it"):
        setting("row_programs")


def test_override_ends(own_file):
    with pytest.raises(RuntimeError), override(row_programs=8):
        assert setting("row_programs") == 8
        raise RuntimeError
    assert setting("row_programs") == 4


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in KNOBS for value in allowed(name)])
def test_results_do_not_depend_on_them(name, value, make_inputs, assert_agrees):
    with override(**{name: value}):
        if name.startswith("attention"):
            shapes = dict.fromkeys(("query", "key", "log_decay_forward", "log_decay_backward"), (2, 300, 1, 16))
            inputs = make_inputs({**shapes, "value": (2, 300, 1, 32)})
            inputs |= {n: -x.square() / 16 for n, x in inputs.items() if n.startswith("log")}
            assert_agrees(bidirectional_gla, inputs, tolerance=1e-5)
        elif name == "mix_elements":
            shapes = dict.fromkeys(("global_branch", "local_branch", "gate"), (70, 64))
            assert_agrees(gated_norm_mix, make_inputs({**shapes, "global_weight": (64,), "local_weight": (64,)}))
        elif name == "aggregation_elements":
            shapes = {"x": (70, 48), "common_weight": (48,), "common_bias": (1,), "scale": (48,)}
            assert_agrees(channel_aggregation, make_inputs(shapes))
        else:
            assert_agrees(rms_norm, make_inputs({"x": (700, 48), "weight": (48,)}))
            assert_agrees(swiglu, make_inputs({"x": (70, 96)}))
