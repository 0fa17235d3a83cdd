import pytest
import torch
from torch import nn

from gatedvision.benchmark.blocks import benchmark_blocks, count_work, last_blocks
from gatedvision.benchmark.roofline import Peaks, Work, find_floor
from gatedvision.benchmark.sources import create_model
from gatedvision.benchmark.timing import Spread
from gatedvision.layers import DepthwiseConv

TINY_HORNET = "hornet_tiny_gf(dims=[8, 16, 32, 64], depths=[1, 1, 2, 1])"
TINY_MOGANET = "moganet_xtiny(dims=[16, 16, 16, 16], depths=[1, 1, 2, 1])"


def test_work_by_hand():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.up, self.down = DepthwiseConv(4, 5, bias=False), nn.Linear(4, 8), nn.Conv2d(8, 4, 1)

    maps = [torch.empty(2, 3, 3, 4, dtype=torch.bfloat16), torch.empty(2, 3, 3, 4)]
    forward, both = count_work(Residual(), maps, maps[1:], torch.bfloat16)
    weights = 100 + 40 + 36
    read, written = 72 * (2 + 4), 72 * 4
    assert forward == Work(read + written + 2 * weights, 18 * (32 + 32), 18 * 100)
    assert both == Work(3 * read + 2 * written + 8 * weights, 3 * forward.products, 3 * forward.depthwise)


# Of kernels/NOTES.md, in microseconds, at the rates given there: 3.00 TB/s, 704 TFLOP/s.
@pytest.mark.parametrize(("stage", "floors"), [(1, (103, 257)), (2, (54, 163)), (3, (54, 163)), (4, (54, 163))])
def test_floors_of_the_notes(stage, floors):
    block = create_model("hornet_tiny_7x7", 224).stages[stage - 1].blocks[-1]
    side, channels = 112 >> stage, 32 << stage
    maps = [
        torch.empty(128, side, side, channels, dtype=dtype, device="meta") for dtype in (torch.bfloat16, torch.float32)
    ]
    for work, floor in zip(count_work(block, maps, maps, torch.bfloat16), floors, strict=True):
        assert 1e3 * find_floor(work, Peaks(3.0, 352.0))[0] == pytest.approx(floor, abs=1)


@pytest.mark.parametrize(("name", "maps"), [(TINY_HORNET, [1, 1, 2, 1]), (TINY_MOGANET, [1, 1, 1, 1])])
def test_blocks_get_what_they_get_in_the_model(name, maps):
    model = create_model(name, 64)
    blocks = last_blocks("tiny", model, torch.randn(2, 3, 64, 64), torch.bfloat16)
    assert [block.name for block in blocks] == [f"tiny stage {index}" for index in (1, 2, 3, 4)]
    for block, stage, count, side in zip(blocks, model.stages, maps, (16, 8, 4, 2), strict=True):
        assert block.module is stage.blocks[-1]
        inputs = block.inputs[0] if isinstance(block.inputs[0], tuple) else block.inputs
        found = [x for x in inputs if x is not None and x.ndim == 4]
        assert [x.shape[:3] for x in found] == [(2, side, side)] * count
    # They are called with these, hooks gone.
    calls = [len(block.module._forward_pre_hooks) for block in blocks]
    assert calls == [0] * 4


def test_rows():
    names = [TINY_HORNET, TINY_MOGANET]
    report = benchmark_blocks(names, batch_size=2, img_size=64, dtype="fp32", depthwise_rate=1e-6, seconds=1e-3)
    assert [(row["block"], row["pass"]) for row in report.rows] == [
        (f"{name} stage {index}", which)
        for name in names
        for index in (1, 2, 3, 4)
        for which in ("forward", "forward + backward")
    ]
    first = report.rows[0]
    assert first["map"] == "16 x 16 x 8" and first["bound by"] == "depthwise"
    # 7 x 7 taps of 4 + 8 channels, a million a second.
    assert first["floor ms"] == pytest.approx(2 * 16 * 16 * 49 * 12 / 1e6 * 1e3)
    for row in report.rows:
        time = row["ms (20–80 %)"]
        assert isinstance(time, Spread) and 0 < time.low <= time.median <= time.high
        assert row["times the floor"] == pytest.approx(time.median / row["floor ms"])
        assert row["roofline (%)"] == pytest.approx(100 / row["times the floor"])
    assert report.title.startswith("fp32 under autocast, batch 2, 64 x 64; peaks: copy ")


def test_mistakes():
    with pytest.raises(ValueError, match="counted for HorNet and MogaNet, got 'resnet18', a ResNet"):
        benchmark_blocks(["resnet18"])
    with pytest.raises(ValueError, match="batch size must be positive, got 0"):
        benchmark_blocks(["hornet_tiny_7x7"], batch_size=0)
