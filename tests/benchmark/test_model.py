import gc
import weakref
from typing import Any

import pytest
import torch

from gatedvision.benchmark import model as benchmark
from gatedvision.benchmark.model import benchmark_models, check_model

SMALL: dict[str, Any] = dict(batch_sizes=[2], img_sizes=[32], seconds=0.01)
TINY = "vig_t(depth=1)"
TINY_HORNET = "hornet_tiny_7x7(dims=[8, 16, 32, 64], depths=[1, 1, 1, 1])"


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_a_row_per_model_and_mode(dtype):
    report = benchmark_models(["vig_t", "test_resnet"], **SMALL, dtype=dtype, channels_last=True)
    assert [(row["mode"], row["model"]) for row in report.rows] == [
        ("inference", "vig_t"),
        ("inference", "test_resnet"),
        ("training", "vig_t"),
        ("training", "test_resnet"),
    ]
    for row in report.rows:
        rate = row["images/s (20–80 %)"]
        assert 0 < rate.low <= rate.median <= rate.high
        assert (row["form"], row["size"], row["batch"], row["times yardstick"]) == ("eager", 32, 2, None)
    assert report.rows[0]["parameters (M)"] == 5.834536
    assert report.title == f"{dtype}, channels last"


def test_every_size_with_every_batch_and_ratios_within_each():
    options = dict(SMALL, img_sizes=[32, 64], batch_sizes=[1, 3], dtype="fp32", mode="inference")
    report = benchmark_models([TINY, "test_vit(img_size=64)"], yardstick="test_resnet", **options)
    rows = [(row["size"], row["batch"], row["model"]) for row in report.rows]
    names = ["test_resnet", TINY, "test_vit(img_size=64)"]
    assert rows == [(size, batch, name) for size in (32, 64) for batch in (1, 3) for name in names]
    assert report.title == "fp32, yardstick test_resnet"
    for index, row in enumerate(report.rows):
        standard = report.rows[index - index % 3]["images/s (20–80 %)"].median
        if row["images/s (20–80 %)"] is None:
            # Made for 64 pixels.
            assert (row["model"], row["size"], row["times yardstick"]) == (names[2], 32, None)
        else:
            assert row["times yardstick"] == pytest.approx(row["images/s (20–80 %)"].median / standard)


def test_groups_of_models_each_beside_the_yardstick(monkeypatch):
    prepared, groups = [], []

    def prepare(name, condition):
        prepared.append(name)
        return benchmark.Run(lambda: name, None)

    def time(calls, device, seconds):
        groups.append([call() for call in calls])
        # The device slows down from group to group.
        return [benchmark.Spread(ms, ms, ms) for ms in (len(groups) * (1 + i) for i in range(len(calls)))]

    monkeypatch.setattr(benchmark, "_prepare", prepare)
    monkeypatch.setattr(benchmark, "time_in_turns", time)
    names = ["test_vit", "test_resnet", "test_convnext", "test_efficientnet"]
    options = dict(SMALL, mode="inference", yardstick="test_resnet", together=2, img_sizes=[160])
    rows = benchmark_models(names, **options).rows
    assert groups == [["test_resnet", "test_vit", "test_convnext"], ["test_resnet", "test_efficientnet"]]
    assert prepared == ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"]
    assert [row["model"] for row in rows] == prepared
    assert [row["times yardstick"] for row in rows] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 2])


def test_a_group_is_gone_before_the_next_is_built(monkeypatch):
    alive: list[weakref.ref] = []
    prepare = benchmark._prepare

    def counted(name, condition):
        gc.collect()
        # None but the yardstick.
        assert sum(step() is not None for step in alive) == (name != "test_resnet")
        run = prepare(name, condition)
        alive.append(weakref.ref(run.step))
        return run

    monkeypatch.setattr(benchmark, "_prepare", counted)
    options = dict(SMALL, dtype="fp32", mode="inference", yardstick="test_resnet", together=1)
    rows = benchmark_models([TINY, TINY_HORNET, "test_vit(img_size=32)"], **options).rows
    assert len(alive) == 4 and all(row["images/s (20–80 %)"] is not None for row in rows)


def test_memory_that_runs_out_while_timing(monkeypatch, capsys):
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(benchmark, "time_in_turns", fail)
    with pytest.raises(ValueError, match="nothing could be timed"):
        benchmark_models(["test_resnet"], **SMALL, mode="inference")
    assert "n/a: test_resnet, inference, eager, 32 pixels, batch 2: out of memory" in capsys.readouterr().err


# Volumes, and a generator that takes a hole, too.
@pytest.mark.parametrize(
    ("name", "given", "size"),
    [
        ("attention_unet_3d(dims=[4, 8, 16])", 16, "16 x 16 x 16"),
        ("deepfillv2(dim=8)", 32, 32),
        ("sononet_ag(feature_scale=16)", None, "208 x 272"),
        ("test_resnet", None, 160),
    ],
)
def test_sizes(name, given, size):
    options = dict(SMALL, img_sizes=[given], batch_sizes=[2], dtype="fp32", channels_last=True)
    rows = benchmark_models([name], **options).rows
    assert [(row["mode"], row["size"]) for row in rows] == [("inference", size), ("training", size)]
    assert all(row["images/s (20–80 %)"].median > 0 and row["floor ms"] > 0 and row["GMACs per image"] for row in rows)


def test_models_of_other_packages():
    name = "segmentation_models_pytorch:Unet(encoder_name='resnet18', encoder_weights=None)"
    [row] = benchmark_models([name], **SMALL, dtype="fp32", mode="inference").rows
    assert row["images/s (20–80 %)"].median > 0 and row["model"] == name


@pytest.mark.parametrize(("name", "part"), [(TINY, "stages.0.mixer"), (TINY_HORNET, "stages.0.blocks.0.mixer")])
def test_a_model_with_a_fault_is_refused(name, part):
    reference, model = (benchmark.create_model(name, 32) for _ in range(2))
    images = [torch.randn(2, 3, 32, 32)]
    assert check_model(name, model, reference, images) < 1e-5
    # HorNet's blocks hide behind layer scales of 1e-6 as they are drawn.
    model.get_submodule(part).register_forward_hook(lambda module, inputs, output: 1.5 * output)
    with pytest.raises(ValueError, match="not timed, .* is wrong: relative error"):
        check_model(name, model, reference, images)


def test_compiled_code_with_a_fault_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(torch, "compile", lambda model, **_: lambda x: 1.5 * model(x))
    options = dict(SMALL, dtype="fp32", mode="inference", forms=["eager", "default"])
    rows = benchmark_models(["test_resnet"], **options).rows
    assert [row["images/s (20–80 %)"] is None for row in rows] == [False, True]
    message = "n/a: test_resnet, inference, default, 32 pixels, batch 2: not timed, test_resnet, compiled is wrong"
    assert message in capsys.readouterr().err


def test_an_unknown_model_stops_before_the_first_is_timed():
    with pytest.raises(ValueError, match="unknown model 'vig_x'"):
        benchmark_models(["vig_t", "vig_x"], **SMALL)


@pytest.mark.parametrize(("option", "name"), [("batch_sizes", "batch size"), ("img_sizes", "image size")])
def test_sizes_must_be_positive(option, name):
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
        benchmark_models(["vig_t"], **{**SMALL, option: [2, 0]})


def test_memory_that_runs_out(monkeypatch, capsys):
    prepare = benchmark.inference_step

    def fail(model, inputs, dtype, compile):
        if len(inputs[0]) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return prepare(model, inputs, dtype, compile)

    monkeypatch.setattr(benchmark, "inference_step", fail)
    options = dict(SMALL, mode="inference", dtype="fp32")
    rows = benchmark_models(["test_resnet"], **{**options, "batch_sizes": [2, 3]}).rows
    assert [row["images/s (20–80 %)"] is None for row in rows] == [False, True]
    assert "n/a: test_resnet, inference, eager, 32 pixels, batch 3: out of memory: take a" in capsys.readouterr().err
    with pytest.raises(ValueError, match="nothing could be timed of test_resnet: see the lines above"):
        benchmark_models(["test_resnet"], **{**options, "batch_sizes": [3]})


def test_eager_and_compiled():
    options = dict(SMALL, batch_sizes=[1], dtype="fp32", mode="inference")
    rows = benchmark_models(
        ["test_resnet"], forms=["eager", "reduce-overhead"], yardstick="test_resnet", **options
    ).rows
    assert [(row["form"], row["times yardstick"]) for row in rows] == [("eager", 1), ("reduce-overhead", 1)]
