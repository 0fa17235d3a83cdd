"""Attention U-Nets: quick networks of every make, and the check of a published one against its golden record."""

from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from gatedvision.layers.resize_linear import resize_linear
from tests.golden.golden import draw_input
from tests.models.attention_records import (
    RECORDS,
    build,
    check_attention,
    check_layers,
    check_logits,
    recorded_weights,
    watch,
)

DIMS = (4, 6, 8, 10, 12)
# Name -> arguments of a quick network of the same make.
SMALL: dict[str, dict[str, Any]] = {
    "attention_unet": {"dims": DIMS},
    "attention_unet_3d": {"dims": DIMS},
    "attention_unet_3d_multi": {"dims": DIMS, "deep_supervision": False},
    "attention_unet_monai": {"dims": DIMS, "spatial_dims": 3},
}


def create(name: str, **kwargs: Any) -> Any:
    """Make a quick network of three classes for evaluation."""
    torch.manual_seed(0)
    model = timm.create_model(name, **{**SMALL[name], "num_classes": 3, **kwargs}).eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            # Statistics that no training has seen would let the map grow with depth.
            if key.endswith("running_var") and value.device.type != "meta":
                value.uniform_(0.5, 1.5)
    return model


def picture(model: Any, *size: int, batch: int = 2, seed: int = 0) -> Tensor:
    """Draw images or volumes of a size, or of one with sides of 48, 32 and 16."""
    size = size or (48, 32, 16)[: model.spatial_dims]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, model.in_chans, *size[: model.spatial_dims], generator=generator)


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Return the gradients of a loss by parameter; those without are left out."""
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_network(
    record_name: str, name: str, options: dict[str, Any], layers: dict[str, str], count: int, tmp_path: Path
) -> None:
    """Compare a network with its record: parameters, logits, layers and attention.

    Args:
        record_name: which record.
        name: the model.
        options: its arguments.
        layers: recorded layers by their published names.
        count: number of values among them.
        tmp_path: where weights are put meanwhile.
    """
    record = RECORDS[record_name]
    # The large one is judged in float32 only, to keep the suite short.
    dtypes = [torch.float64, torch.float32] if record.facts["num_params"] < 30_000_000 else [torch.float32]
    for dtype in dtypes:
        tolerance = 1e-9 if dtype == torch.float64 else 1e-4
        model = build(name, recorded_weights(record_name, dtype), tmp_path, dtype=dtype, **options)
        assert sum(p.numel() for p in model.parameters()) == record.facts["num_params"]
        found = watch(model, layers)
        coarse = watch(model, {"dsv4": "head.levels.0"}) if record_name.startswith("attunet3d_ct") else {}
        with torch.inference_mode():
            x = draw_input(*record.facts["input_shape"]).to(dtype)
            logits, attention = model(x, return_attention=True)
        check_logits(record, logits, tolerance)
        found |= {name: resize_linear(value, x) for name, value in coarse.items()}
        assert check_layers(record, found, tolerance) == count
        if any(key.endswith(".att_mean") for key in record.arrays()):
            gates = len(attention) // 3
            blocks = {f"attentionblock{4 - n}": attention[n * gates : (n + 1) * gates] for n in range(3)}
            assert check_attention(record, blocks, tolerance) == 6
