import pytest
import timm
import torch
from torch import nn

from gatedvision.engine import ParamGroups
from gatedvision.heads import FCNHead
from gatedvision.tasks import Classification, Segmentation


def build(model: nn.Module, **paramwise_cfg: float):
    cfg = {"optimizer": {"type": torch.optim.AdamW, "lr": 1.0, "weight_decay": 0.05}}
    return ParamGroups(cfg, paramwise_cfg)(model)


@pytest.fixture
def task() -> Classification:
    return Classification({"model_name": "vit_tiny_patch16_224", "img_size": 16, "depth": 3, "embed_dim": 12})


def names_of(model: nn.Module, parameters: list[torch.Tensor]) -> set[str]:
    wanted = {id(parameter) for parameter in parameters}
    return {name for name, parameter in model.named_parameters() if id(parameter) in wanted}


def test_two_groups_and_what_does_not_decay(task):
    groups = build(task).optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.0, 0.05]
    free, decayed = (names_of(task, group["params"]) for group in groups)
    assert free | decayed == dict(task.named_parameters()).keys()
    assert not free & decayed
    # The backbone asks for the first two, the others are 1-D.
    assert {"backbone.pos_embed", "backbone.cls_token", "backbone.norm.weight", "backbone.head.bias"} <= free
    assert all(task.get_parameter(name).ndim > 1 for name in decayed)


def test_learning_rate_is_logged_once(task):
    assert build(task).get_lr() == {"lr": [1.0, 1.0]}


def test_layer_decay_puts_the_rate_into_the_groups(task):
    wrapper = build(task, layer_decay=0.5)
    rate = {name: group["lr"] for group in wrapper.optimizer.param_groups for name in names_of(task, group["params"])}
    assert rate.keys() == dict(task.named_parameters()).keys()
    assert rate["backbone.head.weight"] == 1.0
    assert rate["backbone.blocks.2.attn.qkv.weight"] == rate["backbone.blocks.2.norm1.bias"]
    assert rate["backbone.blocks.0.mlp.fc1.weight"] == rate["backbone.blocks.2.mlp.fc1.weight"] / 4
    assert rate["backbone.patch_embed.proj.weight"] == rate["backbone.blocks.0.mlp.fc1.weight"] / 2
    assert len(wrapper.optimizer.param_groups) <= 2 * 6, "a pair for each layer, not one for each parameter"
    timm_groups = timm.optim.param_groups_layer_decay(task.backbone, layer_decay=0.5)
    assert sorted({group["lr_scale"] for group in timm_groups}) == sorted(set(rate.values()))


def test_what_lies_outside_of_the_backbone_is_the_layer_on_top():
    backbone = {"model_name": "hornet_tiny_7x7", "dims": (8, 16, 32, 64), "depths": (1, 1, 3, 1)}
    task = Segmentation(backbone, 3, {"type": FCNHead, "dim": 4}, norm_maps=True)

    def rates(**options: float) -> dict[str, float]:
        groups = build(task, **options).optimizer.param_groups
        return {name: group["lr"] for group in groups for name in names_of(task, group["params"])}

    by_block = rates(layer_decay=0.5)
    assert by_block["head.classifier.weight"] == by_block["norms.0.weight"] == 1.0
    stages = "features.model.stages"
    assert by_block[f"{stages}.3.blocks.0.norm_mlp.weight"] == 0.5
    # The three blocks of the third stage are layers of their own, the step down belongs to the first of them.
    assert by_block[f"{stages}.2.blocks.0.norm_mlp.weight"] == 0.5**4
    by_stage = rates(layer_decay=0.5, by_stage=True, backbone_rate=0.3)
    for stage in range(4):
        assert by_stage[f"{stages}.{stage}.blocks.0.norm_mlp.weight"] == pytest.approx(0.3 * 0.5 ** (4 - stage))
    assert by_stage["features.model.stem.conv.weight"] == pytest.approx(0.3 * 0.5**5)
    assert by_stage["head.classifier.bias"] == 1.0
    everything = rates(backbone_rate=0.1)
    assert {rate for name, rate in everything.items() if name.startswith("features")} == {0.1}


def test_rates_by_name(task):
    groups = build(task, rates={"backbone.head.weight": 3.0, "backbone.head.*": 10.0}).optimizer.param_groups
    rate = {name: group["lr"] for group in groups for name in names_of(task, group["params"])}
    assert rate.pop("backbone.head.weight") == 3.0 and rate.pop("backbone.head.bias") == 10.0
    assert set(rate.values()) == {1.0} and len(groups) == 4
    assert {group["weight_decay"] for group in groups if group["lr"] == 10.0} == {0.0}
    both = build(task, rates={"backbone.blocks.*": 10.0}, layer_decay=0.5).optimizer.param_groups
    lowest = next(group for group in both if "backbone.blocks.0.attn.qkv.weight" in names_of(task, group["params"]))
    assert lowest["lr"] == 10 * 0.5**3
    with pytest.raises(ValueError, match=r"rates: Classification has no parameter 'gate\.\*'"):
        build(task, rates={"gate.*": 10.0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rates": {"*": -1.0}}, r"the rate of '\*' must be 0 or above and finite, got -1.0"),
        ({"layer_decay": 0.0}, r"layer_decay must lie in \(0, 1\], got 0.0"),
        ({"backbone_rate": 1.5}, r"backbone_rate must lie in \(0, 1\], got 1.5"),
        ({"norm_decay_mult": 0.0}, "takes layer_decay, by_stage, backbone_rate and rates only, got norm_decay_mult"),
    ],
)
def test_bad_options_are_named(task, options, message):
    with pytest.raises(ValueError, match=message):
        build(task, **options)
