"""Attention U-Nets of volumes with grid gates: the published networks' outputs, their gates and levels."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from gatedvision.layers.attention_gate import AttentionGate
from tests.golden.golden import draw_input
from tests.models.attention_records import RECORDS, build, check_logits, recorded_weights
from tests.models.attention_unets import check_network, create, gradients, picture

CARDIAC = {
    "dims": (8, 16, 32, 64, 128),
    "kernel_size": (3, 3, 1),
    "stride": (2, 2, 1),
    "shared_gating": True,
    "deep_supervision": False,
}
# Record -> model, its arguments, and the layers that are recorded, beside the number of values among them.
NETWORKS: dict[str, tuple[str, dict[str, Any], dict[str, str], int]] = {
    **{
        record: (
            name,
            {},
            {f"conv{n}": f"stages.{n - 1}" for n in range(1, 5)}
            | {f"up_concat{n}": f"decoder.{4 - n}" for n in range(1, 5)}
            | {f"attentionblock{n}": f"decoder.{4 - n}.combine" for n in range(2, 5)}
            | {"center": "stages.4", "gating": "gating", "dsv1": "head.levels.3"},
            30,
        )
        for record, name in (
            ("attunet3d_ct_single_48x48x32", "attention_unet_3d"),
            ("attunet3d_ct_multi_32", "attention_unet_3d_multi"),
        )
    },
    "attunet3d_grid_32x32x8": (
        "attention_unet_3d",
        CARDIAC,
        {f"conv{n}": f"stages.{n - 1}" for n in range(1, 5)}
        | {f"up_concat{n}": f"decoder.{4 - n}" for n in range(1, 5)}
        | {f"attentionblock{n}": f"decoder.{4 - n}.gates.0" for n in range(2, 5)}
        | {"center": "stages.4", "gating": "gating"},
        26,
    ),
}
ALIGNED = [name for name, record in RECORDS.items() if "logits_align_corners" in record.arrays()]


@pytest.mark.parametrize("record_name", NETWORKS)
def test_record(record_name: str, tmp_path: Path) -> None:
    check_network(record_name, *NETWORKS[record_name], tmp_path)


@pytest.mark.parametrize("record_name", ALIGNED)
def test_record_with_aligned_corners(record_name: str, tmp_path: Path) -> None:
    record = RECORDS[record_name]
    name, options, _, _ = NETWORKS[record_name]
    weights = recorded_weights(record_name)
    model = build(name, weights, tmp_path, dtype=torch.float64, align_corners=True, **options)
    with torch.inference_mode():
        logits = model(draw_input(*record.facts["input_shape"]))
    check_logits(record, logits, 1e-9, "logits_align_corners")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("attention_unet_3d_multi", {"shared_gating": True}, "one gate on each skip connection, got num_gates 2"),
        ("attention_unet_3d", {"stride": (2, 2)}, "expected one number or 3, one for each axis"),
    ],
)
def test_bad_options_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create(name, **options)


def test_coefficients_are_those_that_the_gates_use() -> None:
    model = create("attention_unet_3d_multi")
    calls = []
    for module in model.modules():
        if isinstance(module, AttentionGate):
            module.register_forward_hook(lambda m, args, kwargs, y: calls.append((m, kwargs, y)), with_kwargs=True)
    _, attention = model(picture(model), return_attention=True)
    assert len(calls) == len(attention) == 6
    for (gate, kwargs, (y, coefficients)), returned in zip(calls, attention, strict=True):
        assert torch.equal(coefficients, returned)
        assert torch.equal(y, gate.proj_out(kwargs["x"] * returned))


def test_two_levels_have_neither_gates_nor_a_signal_for_them() -> None:
    # Parameters without gradients would stop a run of several processes.
    model = timm.create_model("attention_unet_3d", dims=(2, 4)).train()
    logits, attention = model(torch.randn(2, 1, 4, 4, 4), return_attention=True)
    assert attention == []
    assert set(gradients(model, logits.square().sum())) == {name for name, _ in model.named_parameters()}
