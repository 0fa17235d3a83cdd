"""What timm and its users ask of every model, checked on every row or network of ``cases.py``."""

import copy
import fnmatch
from typing import Any

import pytest
import timm
import torch
from timm.layers import set_scriptable
from timm.models import create_feature_extractor, get_graph_node_names, group_parameters
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

import gatedvision
from tests.models.cases import CASES, EXPERTS, GENERATORS, MIXED_SCALES, NETWORKS, SCAN_PLANES, SEGMENTERS, Case

every_model = pytest.mark.parametrize("case", CASES, ids=str)
every_network = pytest.mark.parametrize("case", NETWORKS, ids=str)
# No multiple of any stride, and not square.
ODD = (2, 3, 75, 102)


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape or ODD, generator=torch.Generator().manual_seed(seed))


def create(case: Case, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    model = case.create(**kwargs).eval()
    # As drawn, the global branch and branches behind a layer scale are so small that an error in them would not show.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.device.type == "meta":
                continue
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            elif 0 < parameter.abs().max() < 1e-3:
                parameter.uniform_(0.2, 0.5)
    return model


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def last_norm(model: Any) -> nn.Module:
    """Return the norm between pooling and classifier, if there is one."""
    return getattr(model.head, "norm", nn.Identity())


def test_every_registered_name_has_a_row() -> None:
    names = [*(case.name for case in [*CASES, *EXPERTS, *MIXED_SCALES]), *GENERATORS, *SEGMENTERS, *SCAN_PLANES]
    assert sorted(names) == sorted(gatedvision.list_models())


def create_without_memory(case: Case) -> Any:
    """Create a model of full size on no device, and see that it has as many parameters, and those its cfg names."""
    model: Any = timm.create_model(case.name, device="meta", dtype=torch.float32).eval()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert {tensor.device.type for tensor in tensors.values()} == {"meta"}
    assert sum(p.numel() for p in model.parameters()) == case.num_params
    cfg = model.default_cfg
    assert {f"{cfg['first_conv']}.weight", f"{cfg['classifier']}.weight"} <= set(model.state_dict())
    return model


@every_model
def test_default_cfg_describes_the_model(case: Case) -> None:
    model = create_without_memory(case)
    cfg = model.default_cfg
    assert cfg["license"] and cfg["paper_ids"] and cfg["origin_url"]
    if case.weights == "default":
        assert cfg["url"].startswith("https://")
        assert len(cfg["url"].partition("#sha256=")[2]) == case.checksum
    else:
        assert "url" not in cfg
    features = model.forward_features(torch.empty(1, *cfg["input_size"], device="meta"))
    assert tuple(features.shape) == (1, model.num_features, *cfg["pool_size"])
    assert model(torch.empty(1, *cfg["input_size"], device="meta")).shape == (1, 1000)
    model.to(torch.bfloat16)
    assert model(torch.empty(1, *cfg["input_size"], device="meta", dtype=torch.bfloat16)).dtype == torch.bfloat16


@every_model
def test_listed_with_weights(case: Case) -> None:
    names = timm.list_models(f"{case.name}.*", pretrained=True)
    assert any(name.startswith(f"{case.name}.") for name in names) == (case.weights != "none")
    assert gatedvision.list_models(f"{case.name}.*", pretrained=True) == names


@every_model
def test_unknown_argument_is_an_error(case: Case) -> None:
    with pytest.raises(TypeError, match="not_an_argument"):
        case.create(not_an_argument=1)


@every_network
def test_every_parameter_gets_a_gradient(case: Case) -> None:
    model = create(case, drop_path_rate=0.1, drop_rate=0.1).train()
    logits = model(image())
    assert logits.shape == (2, 10)
    found = gradients(model, logits.square().sum())
    assert set(found) == {name for name, _ in model.named_parameters()}
    assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in found.values())


@every_network
def test_train_and_eval_are_one_function(case: Case) -> None:
    model, x = create(case), image()
    in_eval = model(x)
    eval_gradients = gradients(model, in_eval.square().sum())
    model.train()
    # Batch norms are two functions by nature.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    in_train = model(x)
    train_gradients = gradients(model, in_train.square().sum())
    assert torch.equal(in_eval, in_train)
    assert all(torch.equal(train_gradients[name], gradient) for name, gradient in eval_gradients.items())


@every_network
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 160), (97, 40)], ids=lambda size: "x".join(map(str, size)))
def test_any_size(case: Case, size: tuple[int, int]) -> None:
    model, x = create(case), image(3, 3, *size)
    with torch.inference_mode():
        together, alone = model(x), model(x[1:2])
    assert together.isfinite().all() and together.std() > 0.01
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


@every_network
@pytest.mark.parametrize("in_chans", [1, 5])
def test_in_chans(case: Case, in_chans: int) -> None:
    model = create(case, in_chans=in_chans)
    assert model.in_chans == in_chans
    assert model(image(2, in_chans, 64, 48)).shape == (2, 10)


@every_model
def test_features_only(case: Case) -> None:
    full: Any = timm.create_model(case.name, features_only=True, device="meta")
    assert full.feature_info.channels() == list(case.channels)
    assert full.feature_info.reduction() == list(case.reductions)
    maps = full(torch.empty(1, 3, 224, 192, device="meta"))
    assert [tuple(x.shape[1:]) for x in maps] == [
        (channels, 224 // stride, 192 // stride)
        for channels, stride in zip(case.channels, case.reductions, strict=True)
    ]

    model = create(case, features_only=True, out_indices=(0, 2))
    maps = model(image())
    assert [x.shape[1] for x in maps] == model.feature_info.channels()
    found = gradients(model, torch.stack([x.square().sum() for x in maps]).sum())
    assert set(found) == {name for name, _ in model.named_parameters()}


@every_network
@pytest.mark.parametrize("way", ["hook", "fx"])
def test_features_as_stages_pass_them_on(case: Case, way: str) -> None:
    if case.name.startswith("vig_") and not case.name.startswith("vig_h"):
        with pytest.raises(ValueError, match=f"feature_cls must be 'getter' for {case.name}, got '{way}'"):
            create(case, features_only=True, feature_cls=way)
        return
    model, x = create(case, features_only=True, feature_cls=way), image()
    assert model.output_fmt == "NHWC"
    expected = create(case, features_only=True)(x)
    for actual, taken in zip(model(x), expected, strict=True):
        torch.testing.assert_close(actual.permute(0, 3, 1, 2), taken)


@every_network
def test_intermediates(case: Case) -> None:
    model, x = create(case), image()
    with torch.inference_mode():
        features, maps = model.forward_intermediates(x)
        assert torch.equal(features, model.forward_features(x))
        assert [x.shape[1] for x in maps] == [info["num_chs"] for info in model.feature_info]

        last = model.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)
        assert len(last) == 1 and torch.equal(last[0], features)
        early = model.forward_intermediates(x, indices=[0, -3], stop_early=True, intermediates_only=True)
        assert torch.equal(early[0], maps[0]) and torch.equal(early[1], maps[-3])
        swapped = model.forward_intermediates(x, indices=[1], output_fmt="NHWC", intermediates_only=True)
        assert torch.equal(swapped[0].permute(0, 3, 1, 2), maps[1])
    with pytest.raises(ValueError, match="NLC"):
        model.forward_intermediates(x, output_fmt="NLC")


@every_network
@pytest.mark.parametrize("prune_norm", [False, True])
def test_prune_intermediate_layers(case: Case, prune_norm: bool) -> None:
    model, x = create(case), image()
    maps = model.forward_intermediates(x, intermediates_only=True)
    for index in range(len(maps)):
        pruned = copy.deepcopy(model)
        (kept,) = pruned.prune_intermediate_layers([index], prune_norm=prune_norm)
        taps = pruned.forward_intermediates(x, indices=[kept], norm=not prune_norm, intermediates_only=True)
        if prune_norm or index < len(maps) - 1:
            assert pruned.num_features == pruned.head_hidden_size == maps[index].shape[1]
        if prune_norm:
            torch.testing.assert_close(taps[0], maps[index])
            torch.testing.assert_close(pruned.forward_features(x), maps[index])
        found = gradients(pruned, taps[0].square().sum())
        assert set(found) == {name for name, _ in pruned.named_parameters()}

    model.prune_intermediate_layers([len(maps) - 1], prune_head=False)
    assert model(x).shape == (2, 10)


@every_network
def test_reset_classifier(case: Case) -> None:
    model, x = create(case, global_pool="max").requires_grad_(False), image()
    features, norm = model.forward_features(x), last_norm(model)
    pooled = norm(features.amax((2, 3), keepdim=True)).flatten(1)
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), pooled)

    model.reset_classifier(0)
    assert model.num_classes == 0
    torch.testing.assert_close(model(x), pooled)
    model.reset_classifier(0, "")
    torch.testing.assert_close(model(x), norm(features))
    assert not any(p.requires_grad for p in model.parameters())

    # A norm between pooling and classifier keeps the width.
    pool, multiple = ("catavgmax", 2) if isinstance(norm, nn.Identity) else ("avgmax", 1)
    model.double().reset_classifier(7, pool)
    assert model.head_hidden_size == model.get_classifier().in_features == multiple * model.num_features
    assert model.get_classifier().weight.dtype == torch.float64 and not model.head.training
    assert model(x.double()).shape == (2, 7)


@every_network
def test_without_classifier(case: Case) -> None:
    x = image()
    pooled, unpooled = create(case, num_classes=0), create(case, num_classes=0, global_pool="")
    assert pooled(x).shape == (2, pooled.head_hidden_size)
    features, norm = pooled.forward_features(x), last_norm(pooled)
    torch.testing.assert_close(pooled(x), norm(features.mean((2, 3), keepdim=True)).flatten(1))
    torch.testing.assert_close(unpooled(x), norm(features))


@every_network
def test_grad_checkpointing_changes_nothing(case: Case) -> None:
    model, x = create(case).train(), image()
    expected = model(x)
    expected_gradients = gradients(model, expected.square().sum())
    calls = []
    for module in model.modules():
        if type(module).__name__ == case.mixer:
            module.register_forward_hook(lambda *_: calls.append(1))
    model.set_grad_checkpointing()
    actual = model(x)
    forwards = len(calls)
    actual_gradients = gradients(model, actual.square().sum())
    # The backward pass ran every block again.
    assert len(calls) == 2 * forwards > 0
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(actual_gradients, expected_gradients)


@every_network
def test_group_matcher_sorts_by_depth(case: Case) -> None:
    model = create(case)
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    blocks = sum(len(getattr(stage, "blocks", [stage])) for stage in model.stages)
    assert set(layers) == {name for name, _ in model.named_parameters()}
    assert set(layers.values()) == set(range(blocks + 2))
    for name, layer in layers.items():
        assert (layer == 0) == name.startswith(("stem", "pos_embed")), name
        assert (layer == blocks + 1) == name.startswith(("norm", "head")), name
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert set(coarse.values()) == set(range(len(model.stages) + 2))
    assert all(fnmatch.filter(layers, pattern) for pattern in model.no_weight_decay())


@every_network
def test_only_vectors_are_exempt_from_weight_decay(case: Case) -> None:
    model = create(case)
    exempt, decayed = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    assert all(p.ndim == 1 for p in exempt["params"]) and all(p.ndim > 1 for p in decayed["params"])


@every_network
def test_init_weights_fills_an_empty_model(case: Case) -> None:
    model, empty = case.create(), case.create(device="meta").to_empty(device="cpu")
    for parameter in empty.parameters():
        nn.init.constant_(parameter, float("nan"))
    for network in (model, empty):
        torch.manual_seed(3)
        network.init_weights()
    assert {name for name, _ in empty.named_buffers()} <= set(empty.state_dict())
    torch.testing.assert_close(empty.state_dict(), model.state_dict(), rtol=0, atol=0)


@every_network
def test_bfloat16(case: Case) -> None:
    model, x = create(case), image()
    with torch.inference_mode():
        expected = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(x)
        narrow = model.bfloat16()(x.bfloat16())
    assert narrow.dtype == torch.bfloat16
    # Sixteen-bit rounding through some twenty layers.
    for actual in (mixed, narrow):
        assert (actual.float() - expected).std() < 0.05 * expected.std()


@every_network
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore::FutureWarning")
def test_torchscript(case: Case) -> None:
    x = image()
    with set_scriptable(True):
        model = create(case)
        torch.testing.assert_close(torch.jit.script(model)(x), model(x), rtol=1e-4, atol=1e-5)


@every_network
def test_fx(case: Case) -> None:
    model, x = create(case), image()
    _, eval_nodes = get_graph_node_names(model)
    traced = create_feature_extractor(model, [eval_nodes[-1]])
    # Operators stay whole, whatever they do inside.
    assert any(case.operator in node for node in eval_nodes)
    torch.testing.assert_close(traced(x)[eval_nodes[-1]], model(x), rtol=1e-4, atol=1e-5)


@every_network
def test_export(case: Case) -> None:
    model, x = create(case), image()
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    x = image(3, *ODD[1:])
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)


@every_network
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*:FutureWarning")
def test_trace(case: Case) -> None:
    model, first = create(case), image()
    with torch.inference_mode():
        traced: Any = torch.jit.trace(model, first, check_trace=False)
        x = torch.randn_like(first)
        torch.testing.assert_close(traced(x), model(x), rtol=1e-4, atol=1e-5)


@every_network
def test_compile(case: Case) -> None:
    torch._dynamo.reset()
    model, x = create(case), image(2, 3, 40, 56)
    expected = model(x)
    expected_gradients = gradients(model, expected.square().sum())
    actual = torch.compile(model, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    actual_gradients = gradients(model, actual.square().sum())
    torch.testing.assert_close(actual_gradients, expected_gradients, rtol=1e-3, atol=1e-4)
