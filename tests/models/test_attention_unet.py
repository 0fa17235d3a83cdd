"""The attention U-Net of images: the published network's outputs."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.models.attention_unets import check_network, create, picture

# Record -> model, its arguments, and the layers that are recorded, beside the number of values among them.
NETWORKS: dict[str, tuple[str, dict[str, Any], dict[str, str], int]] = {
    "attunet2d_224": (
        "attention_unet",
        {},
        {f"Conv{n}": f"stages.{n - 1}" for n in range(1, 6)}
        | {f"{p}{n}": f"decoder.{5 - n}.{o}" for p, o in (("Up", "up"), ("Up_conv", "merge")) for n in range(2, 6)}
        | {f"Att{n}": f"decoder.{5 - n}.gate" for n in range(2, 6)},
        34,
    ),
}


@pytest.mark.parametrize("record_name", NETWORKS)
def test_record(record_name: str, tmp_path: Path) -> None:
    check_network(record_name, *NETWORKS[record_name], tmp_path)


def test_the_popular_network_step_by_step() -> None:
    model = create("attention_unet", dims=(4, 6, 8))
    x = picture(model, 16, 24)
    first = model.stages[0].blocks(x)
    second = model.stages[1].blocks(F.max_pool2d(first, 2))
    y = model.stages[2].blocks(F.max_pool2d(second, 2))
    for level, skip in zip(model.decoder, (second, first), strict=True):
        y = level.up(y.repeat_interleave(2, 2).repeat_interleave(2, 3))
        y = level.merge(torch.cat([level.gate(x=skip, gating=y), y], 1))
    torch.testing.assert_close(model(x), model.head.fc(y))
