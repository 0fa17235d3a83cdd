"""HorNet's decoders against their golden records and against the plain formula."""

import re
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedvision.heads import HorFPN, HorUPerHead, hor_fpn, hor_uper_head
from tests.golden.golden import Record, draw_input, find_records

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
DIMS = (8, 12, 16, 20)


def fill(module: nn.Module, record: Record, rules: Any, dtype: torch.dtype) -> nn.Module:
    own = module.state_dict()
    renamed = {}
    for name, value in record.weights(dtype).items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        # Linear layers are published as kernels of one pixel.
        renamed[name] = value.reshape(own[name].shape)
    module.load_state_dict(renamed)
    return module.eval()


def record_inputs(record: Record, dtype: torch.dtype) -> list[Tensor]:
    return [draw_input(*spec["shape"], seed=spec["seed"]).to(dtype) for spec in record.facts["inputs"]]


def assert_recorded(maps: list[Tensor], record: Record, name: str, tolerance: float) -> None:
    expected = record.arrays()
    assert len(expected) == 3 * len(maps)
    for level, x in enumerate(maps, 1):
        place = f"{name}{level}"
        assert list(x.shape) == record.facts["stage_shapes"][place]
        rms = float(expected[f"{place}_rms"])
        found = {"mean": x.mean((0, 2, 3)), "rms": x.square().mean().sqrt(), "corner": x[0, :8, 0, 0]}
        for statistic, value in found.items():
            error = float((value.double() - expected[f"{place}_{statistic}"]).abs().max())
            assert error <= tolerance * rms, f"{place}_{statistic}: off by {error:.2e} of {rms:.2e}"


def options(record: Record, published: str) -> dict[str, Any]:
    """Return the arguments of the gnConv module that a record states."""
    config, size = record.facts["kwargs"][published], record.facts["kwargs"]["global_filter"]
    sizes = {"map_size": (size[0], 2 * (size[1] - 1))} if size else {"kernel_size": config["kernel_size"]}
    return {"order": config["order"], **sizes}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("record", [r for r in find_records("hornet") if r.name.endswith("_neck")], ids=str)
def test_pyramid_record(record: Record, dtype: torch.dtype) -> None:
    kwargs = record.facts["kwargs"]
    pyramid = HorFPN(
        kwargs["in_channels"],
        kwargs["out_channels"],
        kwargs["num_outs"],
        **options(record, "gn_conv_cfg"),
        dtype=dtype,
    )
    fill(pyramid, record, hor_fpn.PUBLISHED_NAMES, dtype)
    assert sum(p.numel() for p in pyramid.parameters()) == record.facts["num_params"]
    with torch.inference_mode():
        assert_recorded(pyramid(record_inputs(record, dtype)), record, "level", TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("record", [r for r in find_records("hornet") if r.name.endswith("_uperhead")], ids=str)
def test_head_record(record: Record, dtype: torch.dtype) -> None:
    kwargs = record.facts["kwargs"]
    head = HorUPerHead(
        kwargs["in_channels"],
        kwargs["num_classes"],
        kwargs["channels"],
        kwargs["pool_scales"],
        **options(record, "conv_cfg"),
        dtype=dtype,
    )
    fill(head, record, hor_uper_head.PUBLISHED_NAMES, dtype)
    assert sum(p.numel() for p in head.parameters()) == record.facts["num_params"]
    with torch.inference_mode():
        logits = head(record_inputs(record, dtype))
    assert_recorded([logits], record, "logits_map", TOLERANCES[dtype])


def odd_maps(batch: int = 2) -> list[Tensor]:
    """Return maps of an image that no stride divides."""
    sides = ((19, 25), (9, 12), (4, 6), (2, 3))
    return [torch.randn(batch, dim, *side) for dim, side in zip(DIMS, sides, strict=True)]


@pytest.mark.parametrize("form", [{"kernel_size": 5}, {"map_size": (8, 8)}], ids=["convolution", "filter"])
def test_pyramid_at_odd_sizes(form: dict[str, Any]) -> None:
    torch.manual_seed(0)
    pyramid, maps = HorFPN(DIMS, 16, 6, order=3, **form), odd_maps()
    levels = pyramid(maps)
    assert [tuple(x.shape) for x in levels] == [
        (2, 16, *side) for side in ((19, 25), (9, 12), (4, 6), (2, 3), (1, 2), (1, 1))
    ]
    assert torch.equal(levels[5], levels[3][:, :, ::4, ::4])
    sum(x.square().sum() for x in levels[:4]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pyramid.parameters())

    # A change of the coarsest map reaches all levels, one of the finest map its own only.
    changed = pyramid([*maps[:3], maps[3] + 1])
    assert all(not torch.equal(actual, x) for actual, x in zip(changed, levels, strict=True))
    changed = pyramid([maps[0] + 1, *maps[1:]])
    assert all(torch.equal(actual, x) for actual, x in zip(changed[1:], levels[1:], strict=True))


def test_pyramid_is_lateral_sum_and_gated_convolution() -> None:
    torch.manual_seed(0)
    pyramid, maps = HorFPN(DIMS[:2], 16, 2), odd_maps()[:2]
    coarse, fine = (
        F.conv2d(x, lateral.weight[:, :, None, None], lateral.bias)
        for lateral, x in ((pyramid.laterals[1], maps[1]), (pyramid.laterals[0], maps[0]))
    )
    rows, columns = torch.arange(19) * 9 // 19, torch.arange(25) * 12 // 25
    fine = fine + coarse[:, :, rows][:, :, :, columns]
    expected = pyramid.outputs[0](fine.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(pyramid(maps)[0], expected)


@pytest.mark.parametrize("form", [{"kernel_size": 5}, {"map_size": (8, 8)}], ids=["convolution", "filter"])
def test_head_at_odd_sizes(form: dict[str, Any]) -> None:
    torch.manual_seed(0)
    head = HorUPerHead(DIMS, 7, 16, **form)
    logits = head(odd_maps())
    assert logits.shape == (2, 7, 19, 25)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_on_the_maps_of_a_backbone() -> None:
    small = {"dims": (8, 16, 32, 64), "depths": (1, 1, 1, 1)}
    backbone: Any = timm.create_model("hornet_tiny_gf", features_only=True, feature_norms=True, **small).eval()
    dims = backbone.feature_info.channels()
    maps = backbone(torch.randn(2, 3, 64, 96))
    assert [tuple(x.shape[1:]) for x in HorFPN(dims, 16)(maps)][0] == (16, 16, 24)
    assert HorUPerHead(dims, 5, 16)(maps).shape == (2, 5, 16, 24)


def test_wrong_arguments_name_the_values() -> None:
    with pytest.raises(ValueError, match="num_levels must be at least 4.*got 3"):
        HorFPN(DIMS, 16, 3)
    for module in (HorFPN(DIMS, 16), HorUPerHead(DIMS, 7, 16)):
        with pytest.raises(ValueError, match="expected 4 maps, got 3"):
            module(odd_maps()[:3])
