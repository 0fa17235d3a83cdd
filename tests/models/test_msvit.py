"""MSViT: plain transformers it takes over, dense against packed, the gate's gradient, timm's contract, and mistakes."""

import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models import group_parameters, save_for_hf
from timm.models.vision_transformer import ParallelThingsBlock, ResPostBlock, VisionTransformer
from torch import Tensor, nn

from gatedvision.layers import mixed_scale_attention, token_packing
from gatedvision.layers.key_gated_attention import key_gated_attention_reference
from gatedvision.models import MixedScaleTokens, MSViT
from tests.models import test_contract as contract
from tests.models.cases import MIXED_SCALES, SMALL_MSVIT, Case
from tests.models.test_contract import image

# Without noise, training is evaluation; the gate makes about half of the regions coarse.
SMALL = {**SMALL_MSVIT, "noise": 0.0, "initial_logit": 0.0}
CASE = replace(MIXED_SCALES[0], small=SMALL)
TINY = {
    "patch_size": 8,
    "coarse": 16,
    "embed_dim": 32,
    "depth": 1,
    "num_heads": 2,
    "img_size": 32,
    "initial_logit": 1.0,
}


def small(**options: Any) -> Any:
    model = contract.create(CASE, **options)
    with torch.no_grad():
        # The gate's logits, as drawn, lie to one side.
        model.gate.pos_embed.mul_(5)
    return model


def plain(**options: Any) -> Any:
    torch.manual_seed(0)
    arguments = {"img_size": 64, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 10}
    model = VisionTransformer(**{**arguments, **options}).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=parameter[0].numel() ** -0.5)
        else:
            parameter.data.add_(torch.randn_like(parameter) / 5)
    return model


TRANSFORMERS: dict[str, dict[str, Any]] = {
    "class token": {},
    "mean": {"class_token": False, "global_pool": "avg"},
    "mean beside a class token": {"global_pool": "avg"},
    "registers": {"reg_tokens": 3},
    "registers, positions of patches alone": {"reg_tokens": 2, "no_embed_class": True},
    "norm before": {"pre_norm": True},
    "layer scale, norms of queries and keys": {"init_values": 0.3, "qk_norm": True, "scale_attn_norm": True},
    "no positions": {"pos_embed": "none"},
    "norm behind": {"block_fn": ResPostBlock},
    "pooled by attention": {"global_pool": "map", "class_token": False},
}


def mask(grid: tuple[int, int], images: int, seed: int = 0) -> Tensor:
    return torch.rand(images, grid[0] * grid[1], generator=torch.Generator().manual_seed(seed)) > 0.5


def impose(model: Any, coarse: Tensor) -> None:
    model.set_choice(lambda batch, grid, device: coarse.to(device))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_fine_regions_are_the_plain_transformer(name: str) -> None:
    vit, x = plain(**TRANSFORMERS[name]), image(2, 3, 64, 64)
    expected = vit(x), vit.forward_features(x)
    model = MixedScaleTokens(vit, coarse=16, choice="fine")
    torch.testing.assert_close((model(x), model.forward_features(x)), expected, rtol=1e-5, atol=1e-5)
    # Without our tokens its attention is timm's, so that the transformer given is what it was.
    torch.testing.assert_close(vit(x), expected[0])
    assert {name for name in model.state_dict() if not name.startswith("gate.")} == set(vit.state_dict())


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_coarse_regions_are_the_plain_transformer_on_a_smaller_image(name: str) -> None:
    vit, x = plain(**TRANSFORMERS[name]), image(2, 3, 64, 64)
    model = MixedScaleTokens(copy.deepcopy(vit), coarse=32, choice="coarse")
    # Two of four pixels in the middle of each side are read, and so are positions.
    size = {"size": (16, 16), "mode": "bilinear"}
    shrunk = F.interpolate(x, **size)
    with torch.no_grad():
        if vit.pos_embed is not None:
            prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
            table = vit.pos_embed[:, prefix:].transpose(1, 2).unflatten(2, (8, 8))
            table = F.interpolate(table, **{**size, "size": (2, 2)}).flatten(2).transpose(1, 2)
            vit.pos_embed = nn.Parameter(torch.cat([vit.pos_embed[:, :prefix], table], 1))
        vit.patch_embed.strict_img_size = False
        expected = vit.forward_features(shrunk)
    actual = model.forward_features(x)
    cells = expected[:, vit.num_prefix_tokens :].unflatten(1, (2, 2))
    cells = cells.repeat_interleave(4, 1).repeat_interleave(4, 2).flatten(1, 2)
    torch.testing.assert_close(
        actual, torch.cat([expected[:, : vit.num_prefix_tokens], cells], 1), rtol=1e-5, atol=1e-5
    )


GRID = (4, 4)
ONE = torch.zeros(2, 16, dtype=torch.bool).index_fill(0, torch.tensor([1]), False).clone()
ONE[1, 5] = True
MASKS = {
    "random": mask(GRID, 4),
    "all coarse": torch.ones(4, 16, dtype=torch.bool),
    "all fine": torch.zeros(4, 16, dtype=torch.bool),
    "all of both": torch.arange(4)[:, None].expand(4, 16) % 2 == 0,
    "one region": torch.cat([ONE, ~ONE]),
}


def everything(model: Any, x: Tensor) -> dict[str, Tensor]:
    """Return logits, features, and the gradients of both by parameters and images."""
    x = x.clone().requires_grad_()
    y, features = model(x), model.forward_features(x)
    seed = torch.randn(features.shape, generator=torch.Generator().manual_seed(1)).to(features)
    loss = (features * seed).mean() + y.square().mean()
    named = {name: p for name, p in model.named_parameters() if not name.startswith("gate.")}
    found = torch.autograd.grad(loss, [x, *named.values()])
    return {"logits": y, "features": features, "image": found[0], **dict(zip(named, found[1:], strict=True))}


@pytest.mark.parametrize("which", MASKS)
@pytest.mark.parametrize("form", ["padded", "jagged"])
def test_packed_is_dense(form: str, which: str) -> None:
    model, x = small(packing="dense"), image(4, 3, 64, 64)
    impose(model, MASKS[which])
    expected = everything(model, x)
    model.set_packing(form)
    torch.testing.assert_close(everything(model, x), expected, rtol=1e-5, atol=1e-5)
    # So is training, where nothing is learned by the gate, and in any order of images.
    order = torch.tensor([2, 0, 3, 1])
    impose(model, MASKS[which][order])
    shuffled = model.train()(x[order])
    torch.testing.assert_close(shuffled, expected["logits"][order], rtol=1e-5, atol=1e-5)


def test_flex_is_dense() -> None:
    model, x = small(packing="flex"), image(4, 3, 64, 64)
    impose(model, MASKS["random"])
    with torch.no_grad():
        actual = model.forward_features(x)
        model.set_packing("dense")
        torch.testing.assert_close(actual, model.forward_features(x), rtol=1e-5, atol=1e-5)


def attend_by_image(query: Tensor, key: Tensor, value: Tensor, *limits: Any) -> Tensor:
    """Stand in for torch's attention over sequences of any length, which wants a GPU: ``[M, N, D]``."""
    starts, _, longest, _ = limits
    assert starts.dtype == torch.int32 and longest == 65 and starts.diff().max() <= longest
    bounds = starts.tolist()
    assert bounds[0] == 0 and bounds[-1] == len(query)
    images = [
        F.scaled_dot_product_attention(*(x[start:end].transpose(0, 1) for x in (query, key, value))).transpose(0, 1)
        for start, end in pairwise(bounds)
    ]
    return torch.cat(images)


def test_varlen_is_dense() -> None:
    model, x = small(packing="dense"), image(4, 3, 64, 64)
    impose(model, MASKS["random"])
    expected = everything(model, x)
    model.set_packing("varlen")
    kernel = {"torch.nn.attention.varlen": SimpleNamespace(varlen_attn=attend_by_image)}
    with patch.dict(sys.modules, kernel), patch.object(token_packing, "resolve_form", lambda form, x: form):
        torch.testing.assert_close(everything(model, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spare", [0.0, 0.5, 1.0])
def test_training_of_the_gate_is_evaluation(spare: float) -> None:
    model, x = small(spare=spare), image(4, 3, 64, 64)
    expected = everything(model, x)
    assert 0.1 < model.last.coarse.float().mean() < 0.9 and len(model.token_counts.unique()) > 1
    # But for what the gate's own gradient adds to the patches that it looks at.
    logits = model.gate.logits
    with patch.object(model.gate, "logits", lambda x, grid, detail: logits(x.detach(), grid, detail)):
        torch.testing.assert_close(everything(model.train(), x), expected, rtol=1e-5, atol=1e-5)
    assert model.last.probability.requires_grad


def gate_gradients(model: Any, x: Tensor) -> dict[str, Tensor]:
    found = contract.gradients(model, model(x).square().mean() + model.forward_features(x).square().mean())
    return {name: gradient for name, gradient in found.items() if name.startswith("gate.")}


def by_formula(query: Tensor, key: Tensor, value: Tensor, gates: Tensor, dropout: float) -> Tensor:
    return key_gated_attention_reference(query, key, value, gates)


GAIN = {"gate_loss": {"kind": "gain", "target": 0.3}, "detail": True}


@pytest.mark.parametrize(
    "options",
    [{}, {"global_pool": "avg", "class_token": False}, {"budget": 0.4}, GAIN, {**GAIN, "budget": 0.4}],
    ids=str,
)
def test_gradient_of_the_gate_is_that_of_the_formula(options: dict[str, Any]) -> None:
    model, x = small(spare=1.0, **options).train(), image(4, 3, 64, 64)
    actual = gate_gradients(model, x)
    with patch.object(mixed_scale_attention, "key_gated_attention", by_formula):
        expected = gate_gradients(model, x)
    assert len(actual) == 11 + (model.gate.detail_embed is not None)
    for name, gradient in actual.items():
        if model.gate.share and name == "gate.mlp.6.bias":
            # What all logits have in common does not learn from gains.
            assert gradient.abs() < 1e-6
        else:
            assert gradient.abs().sum() > 0, name
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"noise": 0.0, "gate_loss": {"kind": "gain", "target": 0.5}}], ids=str)
@pytest.mark.parametrize("spare", [1.0, 0.25])
def test_gate_learns_what_pays(spare: float, options: dict[str, Any]) -> None:
    # Faint stripes in the left half tell the classes apart; they are lost in the mean that coarse regions see.
    torch.manual_seed(0)
    model = MSViT(num_classes=2, global_pool="avg", class_token=False, spare=spare, **{**TINY, **options})
    stripes = torch.tensor([1.0, -1.0]).repeat(16).expand(64, 3, 32, 32).clone()
    stripes[..., 16:] = 0
    labels = torch.arange(64) % 2
    gate = list(model.gate.parameters())
    others = [p for name, p in model.named_parameters() if not name.startswith("gate.")]
    optimizer = torch.optim.Adam([{"params": others, "lr": 3e-3}, {"params": gate, "lr": 1e-2}])
    # What predicts gains starts to learn once the blocks have something to lose.
    for _ in range(300 if options else 120):
        x = torch.randn(64, 3, 32, 32) + 0.15 * stripes * (2 * labels - 1)[:, None, None, None]
        y = model(x)
        hold = (model.last.probability.mean() - 0.5).square()
        loss = F.cross_entropy(y, labels) + model.auxiliary_losses().get("auxiliary", hold)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model.last.coarse is not None
    found = model.last.coarse.double() if options else model.last.probability.detach()
    left, right = found.mean(0).view(2, 2).mean(0).tolist()
    assert left < 0.2 and right > 0.8
    model.eval()(torch.randn(64, 3, 32, 32))
    left, right = model.last.coarse.double().mean(0).view(2, 2).mean(0).tolist()
    assert left < 0.3 and right > 0.7


@pytest.mark.parametrize("kind", ["generalized", "mean_rate", "gain"])
def test_a_gate_that_stays_teaches_nobody(kind: str) -> None:
    model = small(gate_loss={"kind": kind, "target": 0.3}).train()
    model.gate.requires_grad_(False)
    model(image(2, 3, 40, 56)).square().sum().backward()
    assert model.auxiliary_losses() == {} and model.patch_embed.proj.weight.grad.abs().sum() > 0
    # Only active tokens go, as in evaluation.
    assert model.last.probability.requires_grad is False


def test_token_counts_and_budgets() -> None:
    model, x = small(), image(4, 3, 64, 64)
    with pytest.raises(RuntimeError, match="run the model first"):
        _ = model.token_counts
    impose(model, MASKS["one region"])
    model(x)
    assert model.token_counts.tolist() == [64, 61, 16, 19]
    for choice in ("gate", "random", "centre"):
        model.set_choice(choice, 0.25)
        model(x)
        assert model.token_counts.tolist() == [28] * 4
    assert model.last.grid == (4, 4)


# GMACs of the three sizes, with a class token, by the share of regions that are coarse.
COSTS = {
    0.0: ("1.254", "4.599", "17.56"),
    0.25: ("0.993", "3.687", "14.18"),
    0.5: ("0.744", "2.799", "10.84"),
    0.75: ("0.508", "1.937", "7.558"),
    0.9: ("0.372", "1.432", "5.611"),
    1.0: ("0.284", "1.100", "4.322"),
}


@pytest.mark.parametrize("index", range(3))
def test_cost(index: int) -> None:
    model: Any = timm.create_model(MIXED_SCALES[index].name, device="meta")
    for share, costs in COSTS.items():
        digits = len(costs[index].partition(".")[2])
        assert f"{model.macs(49 * share + 196 * (1 - share)).item() / 1e9:.{digits}f}" == costs[index]
    # The gate, and patches of both scales of which some are not needed.
    dim = model.embed_dim
    layers = dim * dim // 2 + 2 * (dim // 2) ** 2 + dim // 2
    extra = model.macs(49, (7, 7)) - model.macs(49)
    assert extra == 196 * 768 * dim + 49 * layers
    model.set_choice("coarse")
    assert model.macs(49, (7, 7)) - model.macs(49) == 196 * 768 * dim


CHECKS = [
    contract.test_unknown_argument_is_an_error,
    contract.test_init_weights_fills_an_empty_model,
    contract.test_bfloat16,
    contract.test_fx,
    contract.test_every_parameter_gets_a_gradient,
    contract.test_compile,
]


def budgeted(case: Case) -> Case:
    return replace(case, small={**case.small, "choice": "centre", "budget": 0.5})


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("test_"))
def test_contract(check: Callable[[Case], None]) -> None:
    # Compilers want shapes that stay.
    check(budgeted(CASE) if check is contract.test_compile else CASE)


def test_grad_checkpointing_changes_nothing() -> None:
    contract.test_grad_checkpointing_changes_nothing(replace(CASE, small={**SMALL, "spare": 1.0}))


@pytest.mark.parametrize("options", [{}, {**GAIN, "spare": 1.0}], ids=str)
def test_training_compiles_to_one_graph(options: dict[str, Any]) -> None:
    model, x = small(**{"spare": 1.0, **options}).train(), image(2, 3, 40, 56)
    torch._dynamo.reset()
    found = []
    for network in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        y = network(x)
        loss = y.square().sum() + model.last.probability.mean()
        found.append((y, contract.gradients(model, loss)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)


def test_compiled_with_any_number_of_tokens() -> None:
    model, x = small(), image(3, 3, 64, 64)
    torch._dynamo.reset()
    compiled: Any = torch.compile(model, backend="eager")
    with torch.no_grad():
        for seed in range(2):
            impose(model, mask(GRID, 3, seed))
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"budget": 0.5}, {"detail": True}], ids=str)
def test_export(options: dict[str, Any]) -> None:
    model, x = small(**options), image()
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    x = image(3, *contract.ODD[1:])
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"budget": 0.5}], ids=str)
def test_export_of_features(options: dict[str, Any]) -> None:
    model, x = small(global_pool="avg", **options), image()
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    x = image(3, *contract.ODD[1:])
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"budget": 0.5}, {"packing": "dense"}, {"gate_loss": {"target": 0.3}}], ids=str
)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_no_images(options: dict[str, Any], training: bool) -> None:
    model = small(**options).train(training)
    assert model(image(0, 3, 40, 56)).shape == (0, 10)
    assert model.forward_features(image(0, 3, 40, 56)).shape == (0, 36, 32)


@pytest.mark.parametrize("options", [{}, {"budget": 0.5}, {"coarse": 32}, {"detail": True}], ids=str)
@pytest.mark.parametrize("size", [(16, 16), (33, 47), (64, 160), (3, 5)], ids=str)
def test_any_size(options: dict[str, Any], size: tuple[int, int]) -> None:
    contract.test_any_size(replace(CASE, small={**SMALL, **options}), size)
    features = small(**options).forward_features(image(1, 3, *size))
    assert features.shape == (1, 1 + -(-size[0] // 8) * -(-size[1] // 8), 32)


@pytest.mark.parametrize("case", MIXED_SCALES, ids=str)
def test_default_cfg_describes_the_model(case: Case) -> None:
    model = contract.create_without_memory(case)
    cfg = model.default_cfg
    assert cfg["license"] and cfg["paper_ids"] and cfg["hf_hub_id"].startswith("timm/deit_")
    x = torch.empty(1, *cfg["input_size"], device="meta", dtype=torch.bfloat16)
    model.to(torch.bfloat16)
    assert model.forward_features(x).shape == (1, 197, case.channels[0])
    assert model(x).shape == (1, 1000) and model(x).dtype == torch.bfloat16
    tags = [f"{case.name}.augreg_in21k_ft_in1k", f"{case.name}.deit_in1k"]
    assert timm.list_models(f"{case.name}.*", pretrained=True) == tags


def test_features() -> None:
    model = contract.create(CASE, features_only=True, out_indices=(0, 1, 3)).train()
    maps = model(image(2, 3, 75, 102))
    assert [tuple(x.shape) for x in maps] == [(2, 32, 10, 13)] * 3
    found = contract.gradients(model, torch.stack([x.square().mean() for x in maps]).sum())
    assert set(found) == {name for name, _ in model.named_parameters()}


def test_intermediates() -> None:
    model, x = small(reg_tokens=1), image(2, 3, 40, 56)
    with torch.inference_mode():
        features, maps = model.forward_intermediates(x)
        assert torch.equal(features, model.forward_features(x)) and len(maps) == 4
        (last,) = model.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)
        assert torch.equal(last.flatten(2).transpose(1, 2), features[:, 2:])
        (early,) = model.forward_intermediates(
            x, indices=[-3], stop_early=True, intermediates_only=True, output_fmt="NLC"
        )
        assert torch.equal(early, maps[-3].flatten(2).transpose(1, 2))
        _, pairs = model.forward_intermediates(x, return_prefix_tokens=True)
        assert torch.equal(pairs[0][0], maps[0]) and pairs[0][1].shape == (2, 2, 32)
        # Coarse regions are uniform, and only these are.
        coarse = model.last.coarse.view(2, 3, 4)[:, :2, :3]
        regions = maps[0][..., :4, :6].unflatten(3, (3, 2)).unflatten(2, (2, 2)).permute(0, 2, 4, 1, 3, 5).flatten(4)
        assert torch.equal((regions == regions[..., :1]).flatten(3).all(-1), coarse) and 0 < coarse.sum() < 12
        found = model.forward_intermediates(x, return_prefix_tokens=True, output_dict=True)
        assert torch.equal(found["image_features"], features) and len(found["image_intermediates"]) == 4
        assert torch.equal(found["image_intermediates_prefix"][0], pairs[0][1])
        assert set(model.forward_intermediates(x, intermediates_only=True, output_dict=True)) == {"image_intermediates"}
        (as_dino,) = model.get_intermediate_layers(x, 1, reshape=True, norm=True)
        assert torch.equal(as_dino, last)
    with pytest.raises(ValueError, match="'NHWC'"):
        model.forward_intermediates(x, output_fmt="NHWC")
    for call in (model.forward_features, model.forward_intermediates):
        with pytest.raises(ValueError, match="no order that a mask could be of"):
            call(x, attn_mask=torch.ones(2, 2))


def test_prune_intermediate_layers() -> None:
    model, x = small(), image(2, 3, 40, 56)
    maps = model.forward_intermediates(x, intermediates_only=True)
    assert model.prune_intermediate_layers([1]) == [1]
    (pruned,) = model.forward_intermediates(x, indices=[1], intermediates_only=True)
    torch.testing.assert_close(pruned, maps[1])
    assert model(x).shape == (2, 36, 32)


def test_reset_classifier() -> None:
    model, x = small(), image(2, 3, 40, 56)
    features = model.forward_features(x)
    pooled = model.forward_head(features, pre_logits=True)
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), pooled)
    model.reset_classifier(0, "")
    torch.testing.assert_close(model(x), features)
    model.double().reset_classifier(7, "avg")
    assert model.get_classifier().weight.dtype == torch.float64 and model(x.double()).shape == (2, 7)


def test_groups_and_weight_decay() -> None:
    model = small()
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    assert set(layers) == {name for name, _ in model.named_parameters()} and set(layers.values()) == set(range(6))
    for name, layer in layers.items():
        assert (layer == 0) == name.startswith(("cls_token", "pos_embed", "patch_embed")), name
        assert (layer == 5) == name.startswith(("head", "gate")), name
    assert {"pos_embed", "cls_token", "gate.pos_embed"} <= model.no_weight_decay()
    # As timm takes the classifier out of clipping.
    assert [name for name, _ in small(gate_loss={"target": 0.3}).named_parameters()][-2:] == [
        "head.weight",
        "head.bias",
    ]


def test_set_input_size() -> None:
    model, x = small(), image(2, 3, 96, 64)
    expected = model(x)
    model.set_input_size((96, 64))
    assert model.pos_embed.shape[1] == 97 and model.gate.pos_embed.shape[1] == 24
    assert all(parameter.is_contiguous() for parameter in model.parameters())
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    model.set_input_size(patch_size=4)
    assert model.ratio == 4 and model(x).shape == (2, 10)
    with pytest.raises(ValueError, match="coarse must be a multiple of the patch size 16, 2 times or more, got 16"):
        model.set_input_size(patch_size=16)


def test_weights_of_plain_transformers(tmp_path: Path) -> None:
    vit: Any = timm.create_model("vit_tiny_patch16_224", depth=2)
    file = tmp_path / "vit.pth"
    torch.save(vit.state_dict(), file)

    def load(**options: Any) -> Any:
        overlay = {"file": str(file)}
        return timm.create_model("msvit_tiny", True, pretrained_cfg_overlay=overlay, depth=2, **options).eval()

    model, x = load(choice="fine"), image(1, 3, 224, 224)
    torch.testing.assert_close(model(x), vit.eval()(x), rtol=1e-4, atol=1e-5)
    model.set_choice("gate")
    model(x)
    assert model.last.coarse.all()
    assert load(img_size=96).pos_embed.shape[1] == 37

    # A gate that was trained comes along, resized.
    with torch.no_grad():
        model.gate.pos_embed.fill_(3)
        model.gate.mlp[-1].bias.fill_(7)
    torch.save({"model": model.state_dict()}, file)
    again = load(img_size=96)
    assert again.gate.pos_embed.shape[1] == 9 and float(again.gate.mlp[-1].bias.detach()) == 7
    torch.testing.assert_close(again.gate.pos_embed, torch.full_like(again.gate.pos_embed, 3))
    torch.save({name: value for name, value in vit.state_dict().items() if "blocks.1." not in name}, file)
    with pytest.raises(ValueError, match=r"does not fit MSViT: missing blocks\.1\."):
        load()


def test_saved_for_the_hub(tmp_path: Path) -> None:
    model, x = small(budget=0.5), image(2, 3, 40, 56)
    save_for_hf(model, tmp_path, safe_serialization=True)
    again: Any = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert again.gate.budget == 0.5 and torch.equal(again(x), model(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: MixedScaleTokens(plain(), coarse=12),
            "coarse must be a multiple of the patch size 8, 2 times.*got 12",
        ),
        (lambda: MixedScaleTokens(plain(), coarse=8), "coarse must be a multiple of the patch size 8, 2 times.*got 8"),
        (lambda: MixedScaleTokens(plain(), packing="ragged"), "packing must be one of auto, padded, .*got 'ragged'"),
        (lambda: MixedScaleTokens(plain(), spare=2.0), "spare is a share, 0 to 1, got 2.0"),
        (lambda: MixedScaleTokens(plain(patch_drop_rate=0.1)), "patch_drop_rate cannot go with a gate"),
        (lambda: MixedScaleTokens(plain(patch_size=(8, 16)), coarse=32), r"patches must be square.*\(8, 16\)"),
        (lambda: MixedScaleTokens(plain(block_fn=ParallelThingsBlock)), "block 0 is a ParallelThingsBlock with"),
        (lambda: MixedScaleTokens(plain(attn_layer="diff")), "block 0 is a Block with DiffAttention"),
        (lambda: MixedScaleTokens(timm.create_model("eva02_tiny_patch14_224")), "Eva is no VisionTransformer of timm"),
        (
            lambda: MixedScaleTokens(timm.create_model("deit_tiny_distilled_patch16_224")),
            "VisionTransformerDistilled has .*_pos_embed.* of its own",
        ),
        (
            lambda: MixedScaleTokens(timm.create_model("vit_tiny_r_s16_p8_224")),
            "patches are embedded by HybridEmbed, two scales need timm's PatchEmbed",
        ),
    ],
)
def test_mistakes(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
