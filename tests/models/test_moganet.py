"""What is particular to MogaNet."""

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import freeze_batch_norm_2d
from timm.models import group_parameters, save_for_hf
from torch import Tensor, nn

from gatedvision.layers import DepthwiseConv, MultiOrderDWConv, MultiOrderGatedAggregation
from gatedvision.models import MogaNet
from gatedvision.models.moganet import MogaBlock
from tests.golden.golden import Record, draw_weight, find_records

SMALL = {"dims": (8, 16, 24, 32), "depths": (1, 2, 1, 1), "mlp_ratios": (2, 2, 2, 2), "num_classes": 10}


def image(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def small(name: str = "moganet_tiny", **kwargs: Any) -> Any:
    """Return a network of a few channels, its branches as large as what they are added to."""
    torch.manual_seed(0)
    model = timm.create_model(name, **{**SMALL, "init_value": 0.3, **kwargs})
    for module in model.modules():
        if isinstance(getattr(module, "scale", None), nn.Parameter):
            nn.init.normal_(module.scale, std=0.5)
    return model


def modules(model: nn.Module, kind: type) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, kind)]


def test_every_stage_is_closed_by_a_norm_that_the_next_one_reads() -> None:
    model, x = small().train(), image(4, 3, 64, 96)
    received = []
    for stage in model.stages[1:]:
        stage.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0].permute(0, 3, 1, 2)))
    features, maps = model.forward_intermediates(x)
    assert torch.equal(features, maps[-1])
    assert all(torch.equal(actual, expected) for actual, expected in zip(received, maps, strict=False))
    for x in maps:
        torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(x.shape[1]), rtol=0, atol=1e-5)
        torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(x.shape[1]), rtol=1e-2, atol=0)


def test_a_block_by_its_formula() -> None:
    model, x = small().eval(), image(2, 5, 7, 8)
    block = model.stages[0].blocks[0]
    nn.init.uniform_(block.norm_mixer.running_mean)

    def norm(module: Any, x: Tensor) -> Tensor:
        return (x - module.running_mean) / (module.running_var + 1e-5).sqrt() * module.weight + module.bias

    y = x + block.scale_mixer * block.mixer(norm(block.norm_mixer, x))
    torch.testing.assert_close(block(x), y + block.scale_mlp * block.mlp(norm(block.norm_mlp, y)))


def test_drop_path_rises_from_block_to_block() -> None:
    model = MogaNet(dims=(8, 8), depths=(2, 3), mlp_ratios=(1, 1), patch_sizes=(3, 3), drop_path_rate=0.4)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in modules(model, MogaBlock)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_initialisation_is_the_published_one() -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model("moganet_tiny", init_value=1e-4)
    block = model.stages[2].blocks[5]
    for weight, deviation in (
        (model.stem.layers[2].conv.weight, (2 / (9 * 32)) ** 0.5),
        (model.stages[3].downsample.conv.weight, (2 / (9 * 256)) ** 0.5),
        (block.mixer.proj_in.weight, (2 / 128) ** 0.5),
        (block.mixer.value.conv_low.weight, (2 / 25) ** 0.5),
        (block.mixer.value.conv_high.weight, (2 / 49) ** 0.5),
        (block.mlp.proj_in.weight, (2 / 512) ** 0.5),
        (block.mlp.proj_common.weight, 2**0.5),
        (model.head.fc.weight, 0.02),
    ):
        assert float(weight.detach().std()) == pytest.approx(deviation, rel=0.1)
    assert all(not m.bias.any() for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear, nn.BatchNorm2d)))
    assert (block.scale_mixer == 1e-4).all() and (block.scale_mlp == 1e-4).all()
    assert (block.mixer.scale == 1e-5).all() and (block.mlp.scale == 1e-5).all()


def dilations(model: nn.Module) -> list[tuple[int, ...]]:
    return [
        tuple(conv.dilation[0] for conv in (m.conv_low, m.conv_middle, m.conv_high))
        for m in modules(model, MultiOrderDWConv)
    ]


def test_dilations() -> None:
    assert dilations(small()) == [(1, 2, 3)] * 5
    assert dilations(small(final_dilation=False)) == [(1, 2, 3)] * 4 + [(1, 2, 1)]
    assert dilations(small(dilations=(2, 1, 2), final_dilation=False)) == [(2, 1, 2)] * 4 + [(1, 2, 1)]


@pytest.mark.parametrize(
    ("options", "reductions"),
    [
        ({}, [4, 8, 16, 32]),
        ({"stem_convs": 1}, [2, 4, 8, 16]),
        ({"stem_convs": 1, "patch_sizes": (7, 3, 3, 3)}, [4, 8, 16, 32]),
        ({"stem_convs": 1, "patch_sizes": (1, 3, 2, 5)}, [1, 2, 4, 12]),
    ],
    ids=["two", "one", "one of 7 pixels", "one of 1 pixel"],
)
def test_stems(options: dict[str, Any], reductions: list[int]) -> None:
    model = small(**options)
    assert [info["reduction"] for info in model.feature_info] == reductions
    assert len(modules(model.stem, nn.Conv2d)) == options.get("stem_convs", 2)
    maps = model.eval().forward_intermediates(image(1, 3, 96, 120), intermediates_only=True)
    for x, channels, reduction in zip(maps, SMALL["dims"], reductions, strict=True):
        assert x.shape[1] == channels
        # A kernel of even side gains a pixel.
        assert 0 <= x.shape[2] - 96 // reduction <= 1 and 0 <= x.shape[3] - 120 // reduction <= 1


def test_openmixup_weights_bring_the_double_gate() -> None:
    def gates(name: str, **kwargs: Any) -> set[bool]:
        model = timm.create_model(name, device="meta", **kwargs)
        return {mixer.double_gate for mixer in modules(model, MultiOrderGatedAggregation)}

    for name in ("moganet_xtiny", "moganet_tiny"):
        assert gates(f"{name}.openmixup_in1k_256") == {True}
        assert gates(f"{name}.openmixup_in1k_256", double_gate=False) == {False}
        assert gates(name) == gates(f"{name}.in1k_256") == {False}
        assert gates(name, double_gate=True) == {True}


def test_the_double_gate_comes_back_from_the_hub(tmp_path: Path) -> None:
    tiny = {"dims": (8, 16), "depths": (1, 1), "mlp_ratios": (2, 2), "patch_sizes": (3, 3)}
    model = timm.create_model("moganet_tiny.openmixup_in1k_256", num_classes=3, **tiny).eval()
    save_for_hf(model, tmp_path, model_args=tiny, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert {mixer.double_gate for mixer in modules(again, MultiOrderGatedAggregation)} == {True}
    torch.testing.assert_close(again(image(1, 3, 64, 64)), model(image(1, 3, 64, 64)))


def test_closing_norms_learn_with_the_block_before_them() -> None:
    layers = group_parameters(small(), small().group_matcher(), reverse=True)
    assert layers["stages.1.norm.weight"] == layers["stages.1.blocks.1.mlp.proj_out.weight"] == 3
    assert layers["stages.2.downsample.norm.weight"] == layers["stages.2.blocks.0.norm_mlp.weight"] == 4


@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_channels_stay_last_in_memory(in_chans: int, memory_format: torch.memory_format) -> None:
    model = small(in_chans=in_chans).to(memory_format=memory_format).train()
    channels_last = []
    for stage in model.stages:
        for module in stage.modules():
            # Batch norms see the map as [B, C, H, W], the others below as [B, H, W, C], or a part of its channels.
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_hook(
                    lambda _, inputs, y: channels_last.append(y.is_contiguous(memory_format=torch.channels_last))
                )
            elif isinstance(module, (MultiOrderDWConv, DepthwiseConv, nn.Linear)):
                module.register_forward_hook(
                    lambda _, inputs, y: channels_last.append(inputs[0].stride(3) == 1 and y.is_contiguous())
                )
    x = image(2, in_chans, 75, 102).contiguous(memory_format=memory_format)
    features = model.forward_features(x)
    assert features.is_contiguous(memory_format=torch.channels_last)
    assert len(channels_last) > 50 and all(channels_last)


def test_batch_norms_can_be_frozen() -> None:
    model, x = small().eval(), image(2, 3, 64, 96)
    expected = model(x)
    torch.testing.assert_close(freeze_batch_norm_2d(model)(x), expected)


def test_wrong_arguments_name_the_values() -> None:
    with pytest.raises(ValueError, match=r"dims \(8, 16\).* one entry per stage"):
        MogaNet(dims=(8, 16))
    with pytest.raises(ValueError, match="stem_convs must be 1 or 2, got 3"):
        MogaNet(stem_convs=3)
    with pytest.raises(ValueError, match=r"got patch_sizes \(7, 3, 3, 3\); pass stem_convs=1"):
        MogaNet(patch_sizes=(7, 3, 3, 3))
    with pytest.raises(ValueError, match="got 20"):
        MogaNet(dims=(8, 16, 20, 32))


# Weight files.


def record(name: str) -> Record:
    return next(r for r in find_records("moganet", "model") if r.name == name)


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return record("moganet_xtiny_224x224").weights(torch.float32)


def load(file: Path, name: str = "moganet_xtiny", **kwargs: Any) -> Any:
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(file)}, **kwargs).eval()


@torch.inference_mode()
def run(model: nn.Module) -> Any:
    return model(image(2, 3, 64, 96))


def test_every_container_gives_the_same_model(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "bare.pth")
    expected = run(load(tmp_path / "bare.pth"))
    other = {name: torch.zeros_like(value) for name, value in weights.items()}
    openmixup = {
        name.replace("head.", "head.fc.") if name.startswith("head.") else f"backbone.{name}": value
        for name, value in weights.items()
    }
    containers = {
        "model.pth": {"model": weights},
        "timm.pth.tar": {"arch": "moganet_xtiny", "state_dict": weights, "metric": 76.5},
        # What is published as evaluated is the moving average.
        "ema.pth.tar": {"state_dict": other, "state_dict_ema": weights},
        "openmixup.pth": {"meta": {"epoch": 300}, "state_dict": openmixup},
    }
    for file, container in containers.items():
        torch.save(container, tmp_path / file)
        assert torch.equal(run(load(tmp_path / file)), expected), file
    save_file(weights, tmp_path / "bare.safetensors")
    assert torch.equal(run(load(tmp_path / "bare.safetensors")), expected)
    save_file(load(tmp_path / "bare.pth").state_dict(), tmp_path / "own.safetensors")
    assert torch.equal(run(load(tmp_path / "own.safetensors")), expected)


def test_files_load_strictly(weights: dict[str, Tensor], tmp_path: Path) -> None:
    without_head = {name: value for name, value in weights.items() if not name.startswith("head.")}
    torch.save(without_head, tmp_path / "dense.pth")
    assert len(run(load(tmp_path / "dense.pth", features_only=True))) == 4
    with pytest.raises(ValueError, match=r"missing head\.fc\.weight, head\.fc\.bias; unexpected nothing"):
        load(tmp_path / "dense.pth")
    del without_head["blocks3.9.mlp.sigma.scale"]
    torch.save(without_head, tmp_path / "damaged.pth")
    with pytest.raises(ValueError, match=r"missing stages\.2\.blocks\.9\.mlp\.scale; unexpected nothing"):
        load(tmp_path / "damaged.pth", features_only=True)
    torch.save(weights, tmp_path / "xtiny.pth")
    with pytest.raises(ValueError, match=r"does not fit MogaNet: missing stages\.2\.blocks\.10\."):
        load(tmp_path / "xtiny.pth", "moganet_tiny")


def test_stem_of_one_convolution_under_its_published_names(weights: dict[str, Tensor], tmp_path: Path) -> None:
    stem = {"projection.weight": [32, 3, 7, 7], "projection.bias": [32]}
    stem |= {f"norm.{part}": [32] for part in ("weight", "bias", "running_mean", "running_var")}
    single = {name: value for name, value in weights.items() if not name.startswith("patch_embed1.")}
    single |= {f"patch_embed1.{name}": draw_weight(name, shape).float() for name, shape in stem.items()}
    single["patch_embed1.norm.num_batches_tracked"] = torch.tensor(0)
    torch.save(single, tmp_path / "single.pth")
    model = load(tmp_path / "single.pth", stem_convs=1, patch_sizes=(7, 3, 3, 3))
    conv = model.stem.layers[0].conv
    assert torch.equal(conv.weight, single["patch_embed1.projection.weight"])
    assert (conv.stride, conv.padding) == ((4, 4), (3, 3))


# Compilers and exporters, on two networks that differ in depth, width and options.

COMPILED = [
    ("moganet_xtiny", {}),
    ("moganet_small", {"double_gate": True, "final_dilation": False, "stem_convs": 1, "channel_split": (2, 1, 1)}),
]
two_models = pytest.mark.parametrize(("name", "options"), COMPILED, ids=[name for name, _ in COMPILED])


@two_models
def test_compiled_training_step_in_channels_last(name: str, options: dict[str, Any]) -> None:
    torch._dynamo.reset()
    tiny = {"dims": (8, 16), "depths": (1, 1), "mlp_ratios": (2, 2), "patch_sizes": (3, 3)}
    eager = small(name, **tiny, **options).to(memory_format=torch.channels_last).train()
    compiled = copy.deepcopy(eager)
    x = image(2, 3, 40, 56).contiguous(memory_format=torch.channels_last)
    step = torch.compile(compiled, mode="default", fullgraph=True)
    for model, forward in ((eager, eager), (compiled, step)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        forward(x).square().sum().backward()
        optimizer.step()
    # Of biases in front of a batch norm the gradient is only rounding.
    for (parameter, actual), expected in zip(compiled.named_parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-3, atol=1e-4, msg=parameter)
    torch.testing.assert_close(compiled.state_dict(), eager.state_dict(), rtol=1e-3, atol=1e-4)


def any_size() -> tuple[dict[int, Any], ...]:
    return (dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),)


@two_models
def test_export_at_any_size(name: str, options: dict[str, Any]) -> None:
    model = small(name, **options).eval()
    program = torch.export.export(model, (image(2, 3, 64, 96),), dynamic_shapes=any_size())
    x = image(3, 3, 75, 102)
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)


@two_models
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx_at_any_size(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, file = small(name, **options).eval(), tmp_path / "model.onnx"
    program = torch.onnx.export(
        model, (image(2, 3, 64, 96),), dynamo=True, verbose=False, dynamic_shapes=any_size(), input_names=["image"]
    )
    assert program is not None
    program.save(file)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for x in (image(1, 3, 64, 96), image(3, 3, 75, 102)):
        (actual,) = session.run(None, {"image": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(actual), model(x).detach(), rtol=1e-4, atol=1e-4)
