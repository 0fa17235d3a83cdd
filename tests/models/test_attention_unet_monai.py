"""MONAI's attention U-Net: the published networks' outputs in two and three dimensions."""

from pathlib import Path
from typing import Any

import pytest

from tests.models.attention_unets import check_network, create

MONAI_3D = {"in_chans": 1, "num_classes": 3, "dims": (8, 16, 32), "strides": (2, 2), "spatial_dims": 3}
# Record -> model, its arguments, and the layers that are recorded, beside the number of values among them.
NETWORKS: dict[str, tuple[str, dict[str, Any], dict[str, str], int]] = {
    record: (
        "attention_unet_monai",
        options,
        {"model.0": "stages.0", "model.1": f"decoder.{last}", "model.1.submodule.1": f"decoder.{last - 1}"}
        | {f"model.1.{p}": f"decoder.{last}.{o}" for p, o in (("upconv", "up"), ("attention", "gate"))}
        | {"model.1.merge": f"decoder.{last}.merge", "model.1.submodule.1.attention": f"decoder.{last - 1}.gate"},
        count,
    )
    for record, options, last, count in (
        ("monai_attunet2d_96x128", {"num_classes": 2}, 3, 14),
        ("monai_attunet3d_32", MONAI_3D, 1, 10),
    )
}


@pytest.mark.parametrize("record_name", NETWORKS)
def test_record(record_name: str, tmp_path: Path) -> None:
    check_network(record_name, *NETWORKS[record_name], tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"strides": (2, 2)}, r"expected 4 strides for dims \(4, 6, 8, 10, 12\), got \(2, 2\)")],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create("attention_unet_monai", **options)
