"""V-MoE: timm's contract for transformers, the dials of routing, losses, and mistakes."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import group_parameters, save_for_hf
from timm.optim import param_groups_weight_decay
from torch import nn

from gatedvision.models import VMoE
from gatedvision.models.vmoe import last_odd
from tests.models import test_contract as contract
from tests.models.cases import EXPERTS, SMALL_VMOE, Case
from tests.models.small_vmoe import NETWORKS, case_of, small
from tests.models.test_contract import image

CHECKS = [
    contract.test_unknown_argument_is_an_error,
    contract.test_train_and_eval_are_one_function,
    contract.test_grad_checkpointing_changes_nothing,
    contract.test_init_weights_fills_an_empty_model,
    contract.test_bfloat16,
    contract.test_fx,
]
# An ensemble returns more rows than there are images.
SINGLE = [name for name in NETWORKS if name != "ensemble"]
every_network = pytest.mark.parametrize("name", NETWORKS)


@every_network
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("test_"))
def test_contract(check: Callable[[Case], None], name: str) -> None:
    check(case_of(name))


@pytest.mark.parametrize("name", SINGLE)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    contract.test_every_parameter_gets_a_gradient(case_of(name))


def test_training_compiles_to_one_graph_and_leaves_its_losses() -> None:
    model, x = small("top_k", noise_std=1.0).train(), image(2, 3, 40, 56)
    torch._dynamo.reset()
    found = []
    for network in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        torch.manual_seed(3)
        y = network(x)
        losses = model.auxiliary_losses()
        found.append((losses, contract.gradients(model, y.square().sum() + losses["auxiliary"])))
    assert set(found[0][0]) == {"importance", "load", "auxiliary"}
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)


# Tokens that choose are compiled in training, below.
@pytest.mark.parametrize("name", ["batch_priority", "expert_choice", "soft", "ensemble"])
def test_compile(name: str) -> None:
    contract.test_compile(case_of(name))


@pytest.mark.parametrize("name", ["batch_priority", "expert_choice", "soft"])
def test_export(name: str) -> None:
    if NETWORKS[name].get("routing"):
        contract.test_export(case_of(name))
        return
    # Groups bind a program to batches of one group, with the sizes that come of it.
    model, x = small(name), image()
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    x = image(5, 3, 75, 102)
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("size", [(16, 16), (33, 47), (64, 160)], ids=str)
def test_any_size(name: str, size: tuple[int, int]) -> None:
    contract.test_any_size(case_of(name), size)


def test_images_smaller_than_a_patch_are_named() -> None:
    with pytest.raises(ValueError, match="images of 7x9 pixels are smaller than a patch of 8x8"):
        small("top_k")(image(1, 3, 7, 9))


@pytest.mark.parametrize("case", EXPERTS, ids=str)
def test_default_cfg_describes_the_model(case: Case) -> None:
    model = contract.create_without_memory(case)
    cfg = model.default_cfg
    assert cfg["license"] and cfg["paper_ids"] and cfg["origin_url"] and "url" not in cfg
    x = torch.empty(1, *cfg["input_size"], device="meta", dtype=torch.bfloat16)
    model.to(torch.bfloat16)
    cells = cfg["pool_size"][0] * cfg["pool_size"][1]
    assert model.forward_features(x).shape == (1, cells + 1, model.num_features)
    assert model(x).shape == (1, 1000) and model(x).dtype == torch.bfloat16


# As the paper counts, with the classes it was trained on (millions).
PAPER = {
    "s32_last2": 166.7,
    "s32_every2": 296.9,
    "b32_last2": 395.0,
    "b32_every2": 980.6,
    "b16_last2": 393.3,
    "b16_every2": 979.0,
    "l32_last2": 845.8,
    "l32_every2": 3448.2,
    "l16_last2": 843.6,
    "l16_every2": 3446.0,
    "h14_last5": 2688.6,
    "h14_every2": 7160.8,
}


def test_sizes_of_the_paper() -> None:
    counted = {case.name: case.num_params + 17291 * (case.channels[0] + 1) for case in EXPERTS}
    assert {name: round(counted[f"vmoe_{name}_e32"] / 1e6, 1) for name in PAPER} == PAPER


@pytest.mark.parametrize(
    ("name", "options", "num_params"),
    [
        ("vmoe_s32_last2_e8", {"img_size": 384, "representation_size": 0}, 56_785_384),
        ("vmoe_b16_every2_e8", {"num_classes": 21843}, 300_974_931),
        ("vmoe_b16_every2_e8", {"img_size": 384}, 285_238_504),
    ],
)
def test_sizes_of_released_weights(name: str, options: dict[str, Any], num_params: int) -> None:
    model = timm.create_model(name, device="meta", **options)
    assert sum(p.numel() for p in model.parameters()) == num_params


def test_last_blocks_are_the_last_odd_ones() -> None:
    assert last_odd(2, 8) == (5, 7) and last_odd(2, 12) == (9, 11) and last_odd(5, 32) == (23, 25, 27, 29, 31)


@every_network
def test_features(name: str) -> None:
    model = small(name, features_only=True, out_indices=(0, 1, 3))
    maps = model(image(2, 3, 75, 102))
    members = [1, 2, 2] if name == "ensemble" else [1, 1, 1]
    assert [tuple(x.shape) for x in maps] == [(2 * m, 32, 9, 12) for m in members]
    found = contract.gradients(model, torch.stack([x.square().mean() for x in maps]).sum())
    assert set(found) == {name for name, _ in model.named_parameters()}


@every_network
def test_intermediates(name: str) -> None:
    model, x = small(name), image(2, 3, 40, 56)
    with torch.inference_mode():
        features, maps = model.forward_intermediates(x)
        assert torch.equal(features, model.forward_features(x)) and len(maps) == 4
        (last,) = model.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)
        cells = features[:, model.num_prefix_tokens :]
        assert torch.equal(last.flatten(2).transpose(1, 2), cells)
        (early,) = model.forward_intermediates(
            x, indices=[-3], stop_early=True, intermediates_only=True, output_fmt="NLC"
        )
        assert torch.equal(early, maps[-3].flatten(2).transpose(1, 2))
        if model.num_prefix_tokens:
            _, pairs = model.forward_intermediates(x, return_prefix_tokens=True)
            assert torch.equal(pairs[0][0], maps[0]) and pairs[0][1].shape == (2, 1, 32)
            found = model.forward_intermediates(x, return_prefix_tokens=True, output_dict=True)
            assert torch.equal(found["image_features"], features)
            assert torch.equal(found["image_intermediates"][0], maps[0])
            assert torch.equal(found["image_intermediates_prefix"][0], pairs[0][1])
        (as_dino,) = model.get_intermediate_layers(x, 1, reshape=True, norm=True)
        assert torch.equal(as_dino, last)
        assert model(x[:0]).shape == (0, 10)
    with pytest.raises(ValueError, match="'NHWC'"):
        model.forward_intermediates(x, output_fmt="NHWC")
    with pytest.raises(ValueError, match="leave attn_mask"):
        model.forward_intermediates(x, attn_mask=torch.ones(2, 2))


@every_network
def test_prune_intermediate_layers(name: str) -> None:
    model, x = small(name), image(2, 3, 40, 56)
    maps = model.forward_intermediates(x, intermediates_only=True)
    assert model.prune_intermediate_layers([1]) == [1]
    (pruned,) = model.forward_intermediates(x, indices=[1], intermediates_only=True)
    torch.testing.assert_close(pruned, maps[1])
    assert model.head_hidden_size == 32 and model(x).shape[2] == 32


@every_network
def test_reset_classifier(name: str) -> None:
    model, x = small(name), image(2, 3, 40, 56)
    rows = 2 * model.num_members
    width = model.head_hidden_size
    assert width == NETWORKS[name].get("representation_size", 32)
    features = model.forward_features(x)
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (rows, width) and model(x).shape == (rows, 10)
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), pooled)
    model.reset_classifier(0, "")
    torch.testing.assert_close(model(x), features)
    model.double().reset_classifier(7, "avg")
    assert model.get_classifier().weight.dtype == torch.float64 and not model.head.training
    assert model(x.double()).shape == (rows, 7)


def test_groups_of_parameters() -> None:
    model = small("batch_priority")
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    assert layers["pos_embed"] == layers["patch_embed.proj.weight"] == 0
    assert layers["blocks.1.mlp.router.weight"] == layers["blocks.1.mlp.experts.fc1.bias"] == 2
    exempt, decayed = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    sizes = {id(p) for p in decayed["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in sizes}
    # What the published code calls kernels.
    kernels = (".attn.qkv.weight", ".attn.proj.weight", ".fc1.weight", ".fc2.weight", ".router.weight", ".fc.weight")
    assert all(name.endswith(kernels) or name in ("head.weight", "patch_embed.proj.weight") for name in names)
    assert len(exempt["params"]) + len(names) == len(list(model.parameters())) and len(names) == 4 * 4 + 2 + 3


@torch.no_grad()
def test_published_initialisation() -> None:
    torch.manual_seed(0)
    model: Any = VMoE(img_size=32, patch_size=16, embed_dim=64, depth=2, num_heads=2, expert_blocks=(1,))
    block, std = model.blocks[0], (6 / 128) ** 0.5 / 3**0.5
    assert all(abs(float(part.std()) / std - 1) < 0.05 for part in block.attn.qkv.weight.chunk(3))
    assert not block.attn.qkv.bias.any() and 0 < block.mlp.fc1.bias.abs().max() < 1e-5
    assert abs(float(model.blocks[1].mlp.router.weight.std()) * 8 - 1) < 0.1
    assert not model.cls_token.any() and not model.head.weight.any()
    torch.testing.assert_close(model.head.bias.exp().sum(), torch.tensor(1.0))
    assert float(VMoE(**SMALL_VMOE, head_bias=-10.0).head.bias.mean()) == -10


def test_dials_change_a_loaded_model() -> None:
    model, x = small("top_k"), image(8, 3, 64, 64)
    model.keep_routing()

    def kept() -> list[float]:
        with torch.inference_mode():
            model(x)
        return [float((layer.last.routing.slot_of_choice >= 0).float().mean()) for _, layer in model.expert_layers()]

    def capacities() -> list[int]:
        kept()
        return [layer.last.routing.capacity for _, layer in model.expert_layers()]

    assert kept() == [1.0, 1.0]
    # 520 tokens with two choices among four experts.
    model.set_capacity(0.5, priority="batch")
    assert capacities() == [132, 132] and max(kept()) < 0.52
    model.set_capacity(0.25, blocks=[3])
    assert capacities() == [132, 68]
    model.set_capacity(num_selected=1)
    assert capacities() == [68, 36]
    model.set_capacity(4.0, mode="train")
    assert capacities() == [68, 36]
    model.train()
    assert capacities() == [520, 520]
    assert [layer.router.eval_priority for _, layer in model.expert_layers()] == ["batch", "batch"]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("top_k", {"capacity_factor": 0.0}, "capacity_factor must be above 0, got 0.0"),
        ("top_k", {"capacity_factor": 0.5, "priority": "random"}, "one of vanilla, batch, got 'random'"),
        ("top_k", {"capacity_factor": 0.5, "num_selected": 9}, "num_selected must be 1 to 4, the experts, got 9"),
        ("top_k", {"capacity_factor": 0.5, "blocks": [0, 1]}, r"blocks \[0\] have no experts; .* are \[1, 3\]"),
        ("soft", {"capacity_factor": 0.5}, "the slots of soft mixtures are parameters"),
        ("expert_choice", {"capacity_factor": 0.5, "priority": "batch"}, "neither priority nor num_selected"),
    ],
)
def test_dials_that_cannot_be_turned(name: str, arguments: dict[str, Any], message: str) -> None:
    model = small(name)
    before = [dict(layer.router.__dict__) for _, layer in model.expert_layers()]
    with pytest.raises(ValueError, match=message):
        model.set_capacity(**arguments)
    assert [dict(layer.router.__dict__) for _, layer in model.expert_layers()] == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_selected": 9}, "num_selected must be 1 to 8, the experts, got 9"),
        ({"expert_blocks": (1, 4)}, r"expert_blocks must be among 0 to 3, the blocks, got \[1, 4\]"),
        ({"expert_blocks": ()}, r"expert_blocks must be among 0 to 3, the blocks, got \[\]"),
        ({"capacity_factor": 0.0}, "capacity_factor must be above 0, got 0.0: no expert had a slot"),
        ({"num_experts": 2}, "the load loss does not work with 2 experts a member, got load_weight 0.005"),
        ({"num_experts": 9, "num_members": 2}, "9 experts cannot be shared by 2 members equally"),
        ({"routing": "hash"}, "routing must be one of top_k, expert_choice, soft, got 'hash'"),
        ({"routing": "soft", "num_members": 2}, "num_members and priority belong to routing 'top_k', got"),
        ({"routing": "soft", "capacity_factor": 1e-3}, "at least one slot an expert, got 0 slots of 8 experts"),
        ({"routing": "soft", "capacity_factor": float("inf")}, "must be finite where slots mix tokens, got inf"),
        ({"class_token": False}, "global_pool 'token' needs class_token=True"),
        ({"global_pool": "map"}, "global_pool must be 'token', 'avg', 'avgmax', 'max' or '', got 'map'"),
        ({"img_size": 4}, "img_size 4 is smaller than a patch of 8 pixels"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        timm.create_model("vmoe_s32_last2_e8", **{**SMALL_VMOE, **arguments})


def test_losses_for_the_task() -> None:
    model = small("top_k", noise_std=1.0, gshard_weight=0.01, load_weight=0.0).train()
    model(image(2, 3, 64, 64))
    losses = model.auxiliary_losses()
    assert set(losses) == {"importance", "gshard", "auxiliary"}
    torch.testing.assert_close(losses["auxiliary"], 0.005 * losses["importance"] + 0.01 * losses["gshard"])
    found = contract.gradients(model, losses["auxiliary"])
    assert "blocks.3.mlp.router.weight" in found and "head.weight" not in found
    copied = copy.deepcopy(model)
    assert copied.auxiliary_losses() == {} and model.auxiliary_losses()
    model.eval()(image(2, 3, 64, 64))
    assert model.auxiliary_losses() == {}


def test_losses_under_checkpointing() -> None:
    model, x = small("top_k", noise_std=1.0).train(), image(2, 3, 64, 64)
    found = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        torch.manual_seed(5)
        y = model(x)
        found.append(contract.gradients(model, y.square().sum() + model.auxiliary_losses()["auxiliary"]))
    torch.testing.assert_close(found[0], found[1])


def test_members_are_averaged() -> None:
    model, x = small("ensemble"), image(2, 3, 64, 64)
    logits = model(x)
    assert logits.shape == (4, 10) and not torch.allclose(logits[0], logits[1])
    expected = logits.softmax(-1).view(2, 2, 10).mean(1)
    torch.testing.assert_close(model.average_members(logits).exp(), expected)
    torch.testing.assert_close(model(x[1:]), logits[2:], rtol=1e-4, atol=1e-5)


def test_round_trip_through_files(tmp_path: Path) -> None:
    model = small("top_k")
    save_for_hf(model, tmp_path, safe_serialization=True)
    again: Any = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, **case_of("top_k").small).eval()
    x = image(2, 3, 64, 64)
    assert torch.equal(again(x), model(x))

    # Positions of another grid are resized to that of the model.
    torch.save(model.state_dict(), tmp_path / "own.pth")
    overlay = {"file": str(tmp_path / "own.pth"), "num_classes": 10}
    options = {**case_of("top_k").small, "img_size": (64, 96), "num_classes": 10}
    wide: Any = timm.create_model("vmoe_s32_last2_e8", pretrained=True, pretrained_cfg_overlay=overlay, **options)
    x = image(2, 3, 64, 96)
    torch.testing.assert_close(wide.eval()(x), model(x))
    model.set_input_size((64, 96))
    torch.testing.assert_close(model.pos_embed, wide.pos_embed)


def test_fine_tuning_leaves_out_the_layer_before_the_head(tmp_path: Path) -> None:
    model = small("batch_priority")
    torch.save(model.state_dict(), tmp_path / "own.pth")
    overlay = {"file": str(tmp_path / "own.pth"), "num_classes": 10}
    options = {**case_of("batch_priority").small, "representation_size": 0, "num_classes": 10}
    tuned: Any = timm.create_model("vmoe_s32_last2_e8", pretrained=True, pretrained_cfg_overlay=overlay, **options)
    # The head read other features.
    assert tuned.head.in_features == 32 and not tuned.head.weight.any()
    torch.testing.assert_close(
        tuned.eval().forward_features(image(1, 3, 64, 64)), model.forward_features(image(1, 3, 64, 64))
    )


@pytest.mark.parametrize("name", ["top_k", "ensemble"])
def test_dropping_nothing_without_buffers(name: str) -> None:
    model, x = small(name), image(3, 3, 64, 64)
    expected = model(x)
    model.set_capacity(float("inf"))
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    assert model.to("meta")(x.to("meta")).shape == expected.shape


def test_dropout_of_experts_is_their_own() -> None:
    model = small("top_k", expert_drop_rate=0.5)
    assert model.blocks[1].mlp.experts.drop.p == 0.5
    assert all(m.p == 0 for name, m in model.named_modules() if isinstance(m, nn.Dropout) and "experts" not in name)
