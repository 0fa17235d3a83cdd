import pytest
import timm
import torch

from gatedvision.benchmark.model import benchmark_models, count_macs

SMALL = dict(batch_size=2, img_size=32, seconds=0.01)


# Counted by hand: convolutions, linear layers and attention of one image.
@pytest.mark.parametrize(("name", "giga"), [("vig_t", 1.17), ("deit_tiny_patch16_224", 1.254), ("resnet18", 1.814)])
def test_multiply_adds(name, giga):
    assert count_macs(timm.create_model(name), 224) == pytest.approx(giga * 1e9, rel=0.01)


def test_a_model_that_reads_its_data_has_no_count(capsys):
    class Curious(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) if input.sum().item() else input

    assert count_macs(Curious(8, 8), 8) is None
    assert "n/a: GMACs of Curious: " in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_a_row_per_model_and_mode(dtype):
    report = benchmark_models(["vig_t", "resnet18"], **SMALL, dtype=dtype, channels_last=True)
    assert [(row["model"], row["mode"]) for row in report.rows] == [
        ("vig_t", "inference"),
        ("vig_t", "training"),
        ("resnet18", "inference"),
        ("resnet18", "training"),
    ]
    for row in report.rows:
        rate = row["images/s (20–80 %)"]
        assert 0 < rate.low <= rate.median <= rate.high
    assert report.rows[0]["parameters (M)"] == 5.834536
    assert report.title == f"{dtype}, batch 2, 32 x 32, channels last"


def test_a_model_of_one_size_is_built_for_the_images():
    [row] = benchmark_models(["deit_tiny_patch16_224"], **SMALL, mode="inference").rows
    assert row["GMACs per image"] < 0.03


def test_an_unknown_model_stops_before_the_first_is_timed():
    with pytest.raises(ValueError, match="unknown model 'vig_x'"):
        benchmark_models(["vig_t", "vig_x"], **SMALL)


def test_memory_that_runs_out(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("gatedvision.benchmark.model.time_call", fail)
    with pytest.raises(ValueError, match="resnet18 runs out of memory in inference: take a smaller batch"):
        benchmark_models(["resnet18"], **SMALL)


def test_compiled_in_a_mode():
    options = dict(batch_size=1, img_size=32, dtype="fp32", mode="inference", seconds=0.01)
    report = benchmark_models(["test_resnet"], compile="reduce-overhead", **options)
    assert "compiled (reduce-overhead)" in report.to_markdown("")
