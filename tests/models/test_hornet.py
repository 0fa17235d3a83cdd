"""What is particular to HorNet."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gatedvision.layers import GlobalLocalFilter, RecursiveGatedConv
from gatedvision.layers.global_filter import resize_spectrum
from gatedvision.layers.layer_norm import join
from gatedvision.models import HorNet
from gatedvision.models.hornet import HorNetBlock
from tests.golden.golden import draw_weight, find_records

SMALL = {"dims": (8, 16, 32, 64), "depths": (1, 2, 1, 1), "num_classes": 10}


def image(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def small(name: str = "hornet_tiny_gf", **kwargs: Any) -> Any:
    """Return a network of a few channels, its branches as large as what they are added to."""
    torch.manual_seed(0)
    model = timm.create_model(name, **{**SMALL, "layer_scale": 0.3, **kwargs})
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model


def modules(model: nn.Module, kind: type) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, kind)]


def layer_norm(norm: Any, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, 1e-6)


def test_a_block_by_its_formula() -> None:
    model, x = small().eval(), image(2, 5, 7, 32)
    block = model.stages[2].blocks[0]
    y = x + block.scale_mixer.gamma * block.mixer(layer_norm(block.norm_mixer, x))
    mlp = block.mlp.fc2(F.gelu(block.mlp.fc1(layer_norm(block.norm_mlp, y))))
    torch.testing.assert_close(join(block((None, None, x))), y + block.scale_mlp.gamma * mlp)


def test_the_last_norm_acts_on_the_pooled_vector() -> None:
    model, x = small().eval(), image(2, 3, 75, 102)
    nn.init.normal_(model.head.norm.weight)
    maps = model.forward_intermediates(x, intermediates_only=True)
    expected = model.head.fc(layer_norm(model.head.norm, maps[-1].mean((2, 3))))
    torch.testing.assert_close(model(x), expected)


def test_orders_and_filters_of_the_stages() -> None:
    for name, size in (("hornet_small_7x7", None), ("hornet_small_gf", 224), ("hornet_large_gf_img384", 384)):
        model: Any = timm.create_model(name, device="meta")
        for index, stage in enumerate(model.stages):
            for mixer in modules(stage, RecursiveGatedConv):
                assert len(mixer.projs) == index + 1 and mixer.scale == 1 / 3
                if size is None or index < 2:
                    assert mixer.spatial.weight.shape[2:] == (7, 7)
                else:
                    side = size // (4 * 2**index)
                    assert mixer.spatial.complex_weight.shape[1:] == (side, side // 2 + 1, 2)


def test_stored_filters_fit_a_map_of_the_given_image() -> None:
    model = small(img_size=(100, 200))
    shapes = [tuple(m.complex_weight.shape[1:]) for m in modules(model, GlobalLocalFilter)]
    assert shapes == [(6, 7, 2), (3, 4, 2)]
    _, maps = model.forward_intermediates(image(1, 3, 100, 200))
    assert [tuple(x.shape[2:]) for x in maps[2:]] == [(6, 12), (3, 6)]


def test_drop_path_rises_from_block_to_block() -> None:
    model = small(drop_path_rate=0.4)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in modules(model, HorNetBlock)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_initialisation_is_the_published_one() -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model("hornet_tiny_gf")
    block = model.stages[2].blocks[5]
    for weight in (
        model.stem.conv.weight,
        model.stages[3].downsample.conv.weight,
        model.stages[1].blocks[0].mixer.spatial.weight,
        block.mixer.proj_in.weight,
        block.mixer.projs[1].weight,
        block.mixer.spatial.conv_dw.weight,
        block.mixer.spatial.complex_weight,
        block.mlp.fc2.weight,
        model.head.fc.weight,
    ):
        assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert all(not m.bias.any() for m in modules(model, nn.Linear) + modules(model, nn.LayerNorm))
    assert all((m.weight == 1).all() for m in modules(model, nn.LayerNorm))
    assert (block.scale_mixer.gamma == 1e-6).all() and (block.scale_mlp.gamma == 1e-6).all()


def test_without_layer_scale() -> None:
    model, x = small(layer_scale=0).eval(), image(2, 3, 64, 96)
    assert not [name for name in model.state_dict() if "gamma" in name]
    scaled = small(layer_scale=1).eval()
    scaled.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(model(x), scaled(x))


def test_feature_norms_are_pruned_with_their_maps() -> None:
    model, x = small(num_classes=0, feature_norms=True), image(1, 3, 64, 64)
    (expected,) = model.forward_intermediates(x, indices=[1], intermediates_only=True)
    kept = model.prune_intermediate_layers([1])
    (tap,) = model.forward_intermediates(x, indices=kept, intermediates_only=True)
    torch.testing.assert_close(tap, expected)
    torch.testing.assert_close(tap.mean(1), torch.zeros_like(tap[:, 0]), rtol=0, atol=1e-5)
    tap.square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_channels_stay_last_in_memory(memory_format: torch.memory_format) -> None:
    model, maps = small().to(memory_format=memory_format), []
    for name, module in model.stages.named_modules():
        # The filter's first norm reads a part of a wider map.
        if isinstance(module, (nn.Linear, nn.LayerNorm)) and not name.endswith("norm_pre"):
            module.register_forward_hook(lambda _, inputs, y: maps.extend(tree_leaves((inputs, y))))
    x = image(2, 3, 75, 102).contiguous(memory_format=memory_format)
    model.forward_features(x)
    maps = [x for x in maps if x is not None and x.ndim == 4]
    assert len(maps) > 60 and all(x.is_contiguous() for x in maps)
    expected = small()(image(2, 3, 75, 102))
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_wrong_arguments_name_the_values() -> None:
    with pytest.raises(ValueError, match=r"dims \(8, 16\).* one entry per stage"):
        HorNet(dims=(8, 16))
    with pytest.raises(ValueError, match="dim must be a multiple of 8 for order 4, got 20"):
        HorNet(dims=(8, 16, 20, 64))
    with pytest.raises(ValueError, match=r"map_size must be positive, got \(1, 0\)"):
        timm.create_model("hornet_tiny_gf", img_size=(32, 31))


# Weight files.


@pytest.fixture
def weights() -> dict[str, Tensor]:
    """Return published weights of HorNet-T GF, the last stage and a single block of the third one apart."""
    (record,) = (r for r in find_records("hornet", "model") if r.name == "hornet_tiny_gf_224x224")
    return {name: draw_weight(name, shape).float() for name, shape in record.facts["keys"].items() if in_short(name)}


SHORT = {"depths": (2, 1, 1, 1)}


def in_short(name: str) -> bool:
    return re.match(r"stages\.(1\.[12]|2\.([1-9]|1\d)|3\.1)\.", name) is None


def load(file: Path, name: str = "hornet_tiny_gf", **kwargs: Any) -> Any:
    overlay = {"file": str(file), **kwargs.pop("overlay", {})}
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **{**SHORT, **kwargs}).eval()


@torch.inference_mode()
def run(model: nn.Module) -> Any:
    return model(image(2, 3, 64, 96))


MMPRETRAIN_NAMES = (
    (r"\.gamma(\d)$", r".gamma\1.weight"),
    (r"\.pws\.", ".projs."),
    (r"^head\.", "head.fc."),
    (r"^norm\.", "norm3."),
    (r"^(?!head)", "backbone."),
)


def mmpretrain(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in weights.items():
        for pattern, replacement in MMPRETRAIN_NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


def test_every_container_gives_the_same_model(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"model": weights}, tmp_path / "model.pth")
    expected = run(load(tmp_path / "model.pth"))
    assert expected.std() > 0.1
    torch.save(weights, tmp_path / "bare.pth")
    torch.save(mmpretrain(weights), tmp_path / "mmpretrain.pth")
    torch.save({"meta": {}, "state_dict": mmpretrain(weights)}, tmp_path / "mmpretrain_full.pth")
    save_file(weights, tmp_path / "bare.safetensors")
    save_file(load(tmp_path / "model.pth").state_dict(), tmp_path / "own.safetensors")
    files = ("bare.pth", "mmpretrain.pth", "mmpretrain_full.pth", "bare.safetensors", "own.safetensors")
    for file in files:
        assert torch.equal(run(load(tmp_path / file)), expected), file


def test_files_load_strictly(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "whole.pth")
    with pytest.raises(ValueError, match=r"does not fit HorNet: missing .*mixer\.spatial\.weight.*; unexpected"):
        load(tmp_path / "whole.pth", "hornet_tiny_7x7")
    with pytest.raises(ValueError, match=r"missing nothing; unexpected stages\.0\.blocks\.0\.scale_mixer\.gamma"):
        load(tmp_path / "whole.pth", layer_scale=0)
    del weights["stages.2.0.gnconv.pws.1.bias"]
    torch.save(weights, tmp_path / "damaged.pth")
    with pytest.raises(ValueError, match=r"missing stages\.2\.blocks\.0\.mixer\.projs\.1\.bias; unexpected nothing"):
        load(tmp_path / "damaged.pth", features_only=True)


def test_without_layer_scale_under_published_names(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({name: value for name, value in weights.items() if "gamma" not in name}, tmp_path / "file.pth")
    assert run(load(tmp_path / "file.pth", layer_scale=0)).shape == (2, 1000)


def test_filters_are_resized_to_the_model(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "file.pth")
    model = load(tmp_path / "file.pth", img_size=384)
    stored = weights["stages.2.0.gnconv.dwconv.complex_weight"]
    assert torch.equal(model.stages[2].blocks[0].mixer.spatial.complex_weight, resize_spectrum(stored, 24, 13))
    assert model.stages[3].blocks[0].mixer.spatial.complex_weight.shape[1:] == (12, 7, 2)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_dense_files_and_classifiers(prefix: str, weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(
        {prefix * (name.split(".")[0] != "head") + name: v for name, v in weights.items()}, tmp_path / "head.pth"
    )
    dims = (64, 128, 256, 512)
    norms = {
        f"norm{index}.{part}": torch.full((dim,), 2.0) for index, dim in enumerate(dims) for part in ("weight", "bias")
    }
    dense = {name: value for name, value in weights.items() if not name.startswith(("norm.", "head."))} | norms
    torch.save({prefix + name: value for name, value in dense.items()}, tmp_path / "dense.pth")

    plain = run(load(tmp_path / "head.pth", features_only=True))
    fresh = run(load(tmp_path / "head.pth", features_only=True, feature_norms=True))
    learned = run(load(tmp_path / "dense.pth", features_only=True, feature_norms=True))
    for x, y, z in zip(plain, fresh, learned, strict=True):
        normed = F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], eps=1e-6).permute(0, 3, 1, 2)
        torch.testing.assert_close(y, normed)
        torch.testing.assert_close(z, 2 * normed + 2)
    with pytest.raises(ValueError, match="feature_norms=True"):
        load(tmp_path / "dense.pth", features_only=True)
    with pytest.raises(ValueError, match=r"missing head\.fc\.weight, head\.fc\.bias"):
        load(tmp_path / "dense.pth", feature_norms=True)


def test_large_models_are_published_with_other_classes_only() -> None:
    for name in ("hornet_large_7x7", "hornet_large_gf", "hornet_large_gf_img384"):
        assert timm.list_models(f"{name}.*", pretrained=True) == [f"{name}.in22k"]
        assert timm.get_pretrained_cfg(f"{name}.in22k").num_classes == 10450
        with pytest.raises(RuntimeError, match=f"No pretrained weights exist for {name}"):
            timm.create_model(name, pretrained=True, dims=(8, 16, 32, 64), depths=(1, 1, 1, 1))


# Compilers and exporters.

two_models = pytest.mark.parametrize("name", ["hornet_tiny_7x7", "hornet_tiny_gf"])


@two_models
def test_compiled_training_step_in_channels_last(name: str) -> None:
    torch._dynamo.reset()
    filtered = name.endswith("gf")
    tiny = {"dims": (8, 16), "depths": (1, 1), "orders": (1, 2), "global_filters": (False, filtered)}
    eager = small(name, **tiny).to(memory_format=torch.channels_last).train()
    compiled = copy.deepcopy(eager)
    x = image(2, 3, 40, 56).contiguous(memory_format=torch.channels_last)
    step = torch.compile(compiled, mode="default", fullgraph=True)
    for model, forward in ((eager, eager), (compiled, step)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        forward(x).square().sum().backward()
        optimizer.step()
    for (parameter, actual), expected in zip(compiled.named_parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-3, atol=1e-4, msg=parameter)
    torch.testing.assert_close(compiled.state_dict(), eager.state_dict(), rtol=1e-3, atol=1e-4)


def any_size() -> tuple[dict[int, Any], ...]:
    return (dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),)


@two_models
def test_export_at_any_size(name: str) -> None:
    model = small(name).eval()
    program = torch.export.export(model, (image(2, 3, 75, 102),), dynamic_shapes=any_size())
    for x in (image(3, 3, 64, 96), image(1, 3, 161, 70), image(1, 3, 224, 224)):
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)


@two_models
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx_at_any_size(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, file = small(name).eval(), tmp_path / "model.onnx"
    program = torch.onnx.export(
        model, (image(2, 3, 75, 102),), dynamo=True, verbose=False, dynamic_shapes=any_size(), input_names=["image"]
    )
    assert program is not None
    program.save(file)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for x in (image(1, 3, 64, 96), image(3, 3, 161, 70), image(1, 3, 224, 224)):
        (actual,) = session.run(None, {"image": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(actual), model(x).detach(), rtol=1e-4, atol=1e-4)
