"""Golden records of attention networks: weights as recorded, and layers under their published names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from tests.golden.golden import Record, find_records

RECORDS = {record.name: record for record in find_records("attention_unet")}


def recorded_weights(name: str, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Return the weights under the record's names, in which kernels are enlarged."""
    record = RECORDS[name]
    factor = record.facts["fill_overrides"]["multiply_entries_with_2_or_more_axes_by"]
    return {key: factor * value if value.ndim > 1 else value for key, value in record.weights(dtype).items()}


def build(name: str, weights: Mapping[str, Any], tmp_path: Path, **kwargs: Any) -> Any:
    """Build a model from a file, as a user would."""
    file = tmp_path / "published.pth"
    torch.save(weights, file)
    overlay = {"file": str(file)} | ({"num_classes": kwargs["num_classes"]} if "num_classes" in kwargs else {})
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs).eval()
    file.unlink()
    return model


def watch(model: nn.Module, layers: Mapping[str, str]) -> dict[str, Tensor]:
    """Keep what layers return, under their published names; of a gate or a level, its feature."""
    found: dict[str, Tensor] = {}

    def keep(published: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            found[published] = output[0] if isinstance(output, tuple) else output

        return hook

    for published, own in layers.items():
        model.get_submodule(own).register_forward_hook(keep(published))
    return found


def check_layers(record: Record, found: Mapping[str, Tensor], tolerance: float) -> int:
    """Compare means and corners of layers; return how many values were compared."""
    compared = 0
    for key, values in record.arrays().items():
        layer, _, statistic = key.rpartition(".")
        if layer not in found or statistic not in ("mean", "corner"):
            continue
        output = found[layer]
        corner = output[(0, slice(0, 8), *(0,) * (output.ndim - 2))]
        actual = corner if statistic == "corner" else output.mean((0, *range(2, output.ndim)))[: len(values)]
        # Means nearly cancel: the values give the scale.
        scale = max(float(values.abs().max()), float(output.square().mean().sqrt()))
        message = f"{record}: {key}"
        torch.testing.assert_close(actual.double(), values, rtol=0, atol=tolerance * scale, msg=message)
        compared += 1
    return compared


def check_attention(record: Record, found: Mapping[str, list[Tensor]], tolerance: float) -> int:
    """Compare attention maps of skip connections; return how many values were compared."""
    compared = 0
    for layer, maps in found.items():
        joined = torch.cat(maps, 1)
        corner = joined[(0, 0, slice(0, 4), *(0,) * (joined.ndim - 3))]
        for statistic, actual in (("att_mean", joined.flatten(2).mean(2)), ("att_corner", corner)):
            values = record.arrays()[f"{layer}.{statistic}"]
            torch.testing.assert_close(actual.double(), values, rtol=0, atol=tolerance)
            compared += 1
    return compared


def check_logits(record: Record, logits: Tensor, tolerance: float, name: str = "logits") -> None:
    """Compare logits at the recorded positions, and their root mean square."""
    values = record.arrays()[name]
    step = -(-logits.shape[2] // values.shape[2])
    some = logits[(..., *(slice(None, None, step),) * (logits.ndim - 2))]
    torch.testing.assert_close(some.double(), values, rtol=0, atol=tolerance * float(values.abs().max()))
    if f"{name}_l2" in record.arrays():
        rms = logits.square().mean().sqrt().double()
        torch.testing.assert_close(rms, record.arrays()[f"{name}_l2"], rtol=tolerance, atol=0)
