"""Attention-gated SonoNet: the published network's outputs, and timm's contract as far as its nature allows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import Tensor, nn

from gatedvision.models.sononet_ag import LOSS_WEIGHTS
from tests.golden.golden import draw_input
from tests.models import test_contract as contract
from tests.models.attention_records import RECORDS, build, check_attention, check_layers, recorded_weights, watch
from tests.models.cases import SCAN_PLANES, Case

CASE = Case(SCAN_PLANES[0], 179_322, (8, 16, 32, 64, 64), (1, 2, 4, 8, 16), {"in_chans": 3}, operator="gates")
# Checks that a classifier passes whose head needs the maps of three stages.
CHECKS = [
    contract.test_unknown_argument_is_an_error,
    contract.test_train_and_eval_are_one_function,
    contract.test_intermediates,
    contract.test_group_matcher_sorts_by_depth,
    contract.test_only_vectors_are_exempt_from_weight_decay,
    contract.test_init_weights_fills_an_empty_model,
    contract.test_bfloat16,
    contract.test_torchscript,
    contract.test_fx,
    contract.test_export,
    contract.test_compile,
]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("test_"))
def test_contract(check: Callable[[Case], None]) -> None:
    check(CASE)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (97, 40), (5, 1)], ids=str)
def test_any_size(size: tuple[int, int]) -> None:
    contract.test_any_size(CASE, size)


@pytest.mark.parametrize("in_chans", [1, 5])
def test_in_chans(in_chans: int) -> None:
    contract.test_in_chans(CASE, in_chans)


@pytest.mark.parametrize("prune_norm", [False, True])
def test_prune_intermediate_layers(prune_norm: bool) -> None:
    contract.test_prune_intermediate_layers(CASE, prune_norm)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_record(dtype: torch.dtype, tmp_path: Path) -> None:
    name = "sononet_ag_deepsup_208x272"
    record, tolerance = RECORDS[name], 1e-9 if dtype == torch.float64 else 1e-4
    model = build("sononet_ag", recorded_weights(name, dtype), tmp_path, dtype=dtype)
    found = watch(model, {f"conv{n}": f"stages.{n - 1}" for n in range(1, 6)})
    x = draw_input(*record.facts["input_shape"]).to(dtype)
    with torch.inference_mode():
        logits, attention = model.forward_all(x, return_attention=True)
        assert torch.equal(model(x), logits[0])
    for index, actual in enumerate(logits):
        expected = record.arrays()[f"logits{index}"]
        limit = tolerance * float(expected.abs().max())
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=limit)
    assert len(logits) == len(LOSS_WEIGHTS) == 4
    for index, coefficients in enumerate(attention):
        found[f"compatibility_score{index + 1}"] = found[f"conv{index + 3}"] * coefficients
    assert check_layers(record, found, tolerance) == 14
    maps = {f"compatibility_score{index + 1}": [coefficients] for index, coefficients in enumerate(attention)}
    assert check_attention(record, maps, tolerance) == 4


@pytest.mark.parametrize(("feature_scale", "num_params"), [(8, 179_322), (4, 705_210), (2, 2_796_858)])
def test_default_cfg(feature_scale: int, num_params: int) -> None:
    model: Any = timm.create_model("sononet_ag", feature_scale=feature_scale, device="meta").eval()
    assert sum(p.numel() for p in model.parameters()) == num_params
    cfg = model.default_cfg
    assert cfg["license"] and cfg["paper_ids"] and cfg["origin_url"] and "url" not in cfg
    assert {f"{cfg['first_conv']}.weight", *(f"{name}.weight" for name in cfg["classifier"])} <= set(model.state_dict())
    x = torch.empty(1, *cfg["input_size"], device="meta")
    assert model.forward_features(x).shape == (1, model.num_features, *cfg["pool_size"])
    assert model(x).shape == (1, 14)
    assert model.stages[0].blocks[1].conv.out_channels == 64 // feature_scale


def create(**kwargs: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model("sononet_ag", **{"num_classes": 5, **kwargs}).eval()


def image(*shape: int) -> Tensor:
    return torch.randn(shape or (2, 1, 40, 56), generator=torch.Generator().manual_seed(0))


def test_features_only() -> None:
    model: Any = create(features_only=True, out_indices=(0, 2, 3))
    assert model.feature_info.channels() == [8, 32, 64] and model.feature_info.reduction() == [1, 4, 8]
    maps = model(image())
    assert [tuple(x.shape[1:]) for x in maps] == [(8, 40, 56), (32, 10, 14), (64, 5, 7)]
    found = contract.gradients(model, torch.stack([x.square().sum() for x in maps]).sum())
    assert set(found) == {name for name, _ in model.named_parameters()}


def test_the_head_step_by_step() -> None:
    model, x = create(), image()
    *_, third, fourth, fifth = model.forward_intermediates(x, intermediates_only=True)
    pooled = [
        (skip * gate(x=skip, gating=fifth, return_attention=True)[1]).sum((2, 3))
        for skip, gate in zip((third, fourth), model.gates, strict=True)
    ]
    features = torch.cat([*pooled, fifth.mean((2, 3))], 1)
    assert features.shape[1] == model.head_hidden_size == 160
    torch.testing.assert_close(model(x), model.head.fc(features))
    torch.testing.assert_close(model.forward_head(features), model(x))
    assert model.forward_head(features, pre_logits=True) is features
    with pytest.raises(ValueError, match=r"forward_head takes pooled features \[B, 160\], got \[2, 64, 2, 3\]"):
        model.forward_head(fifth)
    # The weights of a gate sum to 1.
    for coefficients in model.forward_all(x, return_attention=True)[1]:
        torch.testing.assert_close(coefficients.sum((2, 3)), torch.ones(2, 1))


@pytest.mark.parametrize("aggregation", ["deep_sup", "concat", "mean", "ft"])
def test_aggregations(aggregation: str, tmp_path: Path) -> None:
    model, x = create(aggregation=aggregation), image()
    together, *single = model.forward_all(x)
    assert together.shape == (2, 5) and len(single) == (0 if aggregation == "concat" else 3)
    torch.testing.assert_close(model(x), together)
    if aggregation == "mean":
        expected = torch.stack([y.softmax(1) for y in single]).mean(0)
        torch.testing.assert_close(together.softmax(1), expected)
    elif aggregation == "ft":
        torch.testing.assert_close(together, model.head.fc(torch.cat(single, 1)))
    loss = sum(weight * y.square().sum() for weight, y in zip(LOSS_WEIGHTS, (together, *single), strict=False))
    model.train()
    found = contract.gradients(model, loss)
    assert set(found) == {name for name, _ in model.named_parameters()}
    # Biases in front of a norm, and those of the scores of which only differences count, are without effect.
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert all(gradient.abs().sum() > 0 for name, gradient in found.items() if not name.endswith("conv.bias"))

    save_for_hf(model.eval(), tmp_path / "hub", safe_serialization=True)
    options = {"aggregation": aggregation, "pretrained": True}
    hub = timm.create_model(f"local-dir:{tmp_path / 'hub'}", **options).eval()
    assert torch.equal(hub(x), model(x))
    # For other classes, all but the classifiers is taken over.
    other: Any = timm.create_model(f"local-dir:{tmp_path / 'hub'}", num_classes=3, **options).eval()
    assert other(x).shape == (2, 3)
    torch.testing.assert_close(other.forward_features(x), model.forward_features(x), rtol=0, atol=0)


def test_classifiers_come_and_go() -> None:
    model, x = create(), image()
    *_, fifth = model.forward_intermediates(x, intermediates_only=True)
    model.reset_classifier(0)
    assert model.num_classes == 0 and model(x).shape == (2, 160)
    model.reset_classifier(0, "")
    torch.testing.assert_close(model(x), fifth)
    assert create(num_classes=0, global_pool="")(x).shape == fifth.shape
    model.double().reset_classifier(7, "catavgmax")
    assert model(x.double()).shape == (2, 7) and not model.head.training
    assert model.head_hidden_size == model.get_classifier().in_features == 224
    with pytest.raises(ValueError, match="7 classes need pooled features; pass global_pool='avg', or num_classes=0"):
        model.reset_classifier(7, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_scale": 3}, "feature_scale must divide 64, got 3"),
        ({"aggregation": "sum"}, "aggregation must be one of deep_sup, concat, mean, ft, got 'sum'"),
        ({"init": "xavier"}, "init must be one of framework, kaiming, got 'xavier'"),
        ({"weighting": "concatenation"}, "weighting must be one of sigmoid"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create(**options)


def test_grad_checkpointing_changes_nothing() -> None:
    model, x = create(), image()
    expected = model(x)
    expected_gradients = contract.gradients(model, expected.square().sum())
    calls = []
    for stage in model.stages:
        for block in stage.blocks:
            block.register_forward_pre_hook(lambda *_: calls.append(1))
    model.set_grad_checkpointing()
    actual = model(x)
    found = contract.gradients(model, actual.square().sum())
    assert len(calls) == 2 * 12
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(found, expected_gradients)


@pytest.mark.parametrize(("weighting", "bias"), [("sigmoid", 3.0), ("softmax", 10.0)])
def test_published_biases_let_everything_pass(weighting: str, bias: float) -> None:
    model = create(weighting=weighting, init="framework")
    assert [gate.psi.conv.bias.item() for gate in model.gates] == [bias, bias]
    nn.init.zeros_(model.gates[0].psi.conv.bias)
    model.init_weights()
    assert model.gates[0].psi.conv.bias.item() == bias
    assert create().gates[0].psi.conv.bias.item() not in (3.0, 10.0)
