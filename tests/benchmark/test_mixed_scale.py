"""The benchmark of tokens of two scales: what it reports, the shares it sets, and that what is wrong is not timed."""

from typing import Any
from unittest.mock import patch

import pytest
import timm
import torch

from gatedvision.benchmark import benchmark_mixed_scale, correctness
from gatedvision.benchmark.mixed_scale import check_output, set_coarse_share

QUICK: dict[str, Any] = {"size": "tiny", "batch_size": 3, "img_size": 64, "dtype": "fp32", "seconds": 1e-3}


def test_inference(capsys: pytest.CaptureFixture[str]) -> None:
    packings = ["padded", "varlen", "jagged", "budget"]
    report = benchmark_mixed_scale(coarse_shares=[0.5], packings=packings, mode="inference", **QUICK)
    assert [(row["model"], row["packing"]) for row in report.rows] == [
        ("plain", ""),
        ("msvit", "padded"),
        ("msvit", "jagged"),
        ("msvit", "budget"),
    ]
    assert [row["tokens"] for row in report.rows] == [16, 10, 10, 10]
    assert all(row["output error"] < 1e-5 and row["times plain"] > 0 for row in report.rows[1:])
    assert "n/a: packing varlen: packing 'varlen' needs a GPU" in capsys.readouterr().err
    assert report.to_markdown("command").count("\n") == 7


def test_compiled() -> None:
    options = {**QUICK, "packings": ["padded", "budget"], "coarse_shares": [0.5]}
    report = benchmark_mixed_scale(mode="inference", compile="default", **options)
    rows = [(row["form"], row["packing"]) for row in report.rows]
    assert rows == [("eager", ""), ("eager", "padded"), ("eager", "budget"), ("default", ""), ("default", "budget")]
    assert all(row["times plain"] > 0 for row in report.rows)


def test_training() -> None:
    report = benchmark_mixed_scale(coarse_shares=[1.0], mode="training", **QUICK)
    assert [row["packing"] for row in report.rows] == ["", "all tokens", "trimmed, spare 0.5"]


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_shares(share: float) -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model("msvit_tiny", img_size=64, depth=1).eval()
    images = torch.randn(4, 3, 64, 64)
    set_coarse_share(model, images, share, torch.float32)
    model(images)
    assert float(model.last.coarse.float().mean()) == share


def test_what_is_wrong_is_not_timed() -> None:
    model: Any = timm.create_model("msvit_tiny", img_size=64, depth=1).eval()
    torch.nn.init.normal_(model.head.weight)
    with pytest.raises(ValueError, match="not timed, padded is wrong: relative error"):
        with patch.object(correctness, "relative_error", lambda actual, expected: float("nan")):
            check_output("padded", model, None, torch.randn(2, 3, 64, 64), torch.float32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"packings": ["ragged"]}, r"packings are padded, .* got \['ragged'\]"),
        ({"coarse_shares": [1.5]}, r"shares 0 to 1, got \[1.5\]"),
        ({"batch_size": 0}, "must be positive, got 0, 64"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        benchmark_mixed_scale(**{**QUICK, **options})
