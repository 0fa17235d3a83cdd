"""Attention U-Nets: the published networks' outputs, and what users do with them in two and three dimensions."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models import group_parameters, save_for_hf
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

import gatedvision
from gatedvision.layers.attention_gate import AttentionGate
from gatedvision.layers.resize_linear import resize_linear
from tests.golden.golden import draw_input
from tests.layers.memory_layout import channels_last_outputs
from tests.models.attention_records import (
    RECORDS,
    build,
    check_attention,
    check_layers,
    check_logits,
    recorded_weights,
    watch,
)
from tests.models.cases import SEGMENTERS

DIMS = (4, 6, 8, 10, 12)
# Name -> arguments of a quick network of the same make.
SMALL: dict[str, dict[str, Any]] = {
    "attention_unet": {"dims": DIMS},
    "attention_unet_3d": {"dims": DIMS},
    "attention_unet_3d_multi": {"dims": DIMS, "deep_supervision": False},
    "attention_unet_monai": {"dims": DIMS, "spatial_dims": 3},
}
every_network = pytest.mark.parametrize("name", SMALL)
CARDIAC = {
    "dims": (8, 16, 32, 64, 128),
    "kernel_size": (3, 3, 1),
    "stride": (2, 2, 1),
    "shared_gating": True,
    "deep_supervision": False,
}
MONAI_3D = {"in_chans": 1, "num_classes": 3, "dims": (8, 16, 32), "strides": (2, 2), "spatial_dims": 3}
# Record -> model, its arguments, and the layers that are recorded, beside the number of values among them.
NETWORKS: dict[str, tuple[str, dict[str, Any], dict[str, str], int]] = {
    "attunet2d_224": (
        "attention_unet",
        {},
        {f"Conv{n}": f"stages.{n - 1}" for n in range(1, 6)}
        | {f"{p}{n}": f"decoder.{5 - n}.{o}" for p, o in (("Up", "up"), ("Up_conv", "merge")) for n in range(2, 6)}
        | {f"Att{n}": f"decoder.{5 - n}.gate" for n in range(2, 6)},
        34,
    ),
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
    **{
        record: (
            "attention_unet_monai",
            options,
            {"model.0": "stages.0", "model.1": f"decoder.{last}", "model.1.submodule.1": f"decoder.{last - 1}"}
            | {f"model.1.{p}": f"decoder.{last}.{o}" for p, o in (("upconv", "up"), ("attention", "gate"))}
            | {"model.1.merge": f"decoder.{last}.merge", "model.1.submodule.1.attention": f"decoder.{last - 1}.gate"},
            count,
        )
        for record, options, last, count in (
            ("monai_attunet2d_96x128", {"num_classes": 2}, 3, 14),
            ("monai_attunet3d_32", MONAI_3D, 1, 10),
        )
    },
}
ALIGNED = [name for name, record in RECORDS.items() if "logits_align_corners" in record.arrays()]


@pytest.mark.parametrize("record_name", NETWORKS)
def test_record(record_name: str, tmp_path: Path) -> None:
    record = RECORDS[record_name]
    name, options, layers, count = NETWORKS[record_name]
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


@pytest.mark.parametrize("record_name", ALIGNED)
def test_record_with_aligned_corners(record_name: str, tmp_path: Path) -> None:
    record = RECORDS[record_name]
    name, options, _, _ = NETWORKS[record_name]
    weights = recorded_weights(record_name)
    model = build(name, weights, tmp_path, dtype=torch.float64, align_corners=True, **options)
    with torch.inference_mode():
        logits = model(draw_input(*record.facts["input_shape"]))
    check_logits(record, logits, 1e-9, "logits_align_corners")


def create(name: str, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    model = timm.create_model(name, **{**SMALL[name], "num_classes": 3, **kwargs}).eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            # Statistics that no training has seen would let the map grow with depth.
            if key.endswith("running_var") and value.device.type != "meta":
                value.uniform_(0.5, 1.5)
    return model


def picture(model: Any, *size: int, batch: int = 2, seed: int = 0) -> Tensor:
    size = size or (48, 32, 16)[: model.spatial_dims]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, model.in_chans, *size[: model.spatial_dims], generator=generator)


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_every_network_is_here() -> None:
    assert tuple(SMALL) == SEGMENTERS == tuple(gatedvision.list_models("attention_unet*"))


@pytest.mark.parametrize(
    ("name", "options", "num_params"),
    [
        ("attention_unet", {}, 34_878_573),
        ("attention_unet", {"gated": False}, 34_527_041),
        ("attention_unet_3d", {}, 6_214_151),
        ("attention_unet_3d", {"num_gates": 0}, 5_888_004),
        ("attention_unet_3d_multi", {}, 6_473_322),
        ("attention_unet_monai", {"in_chans": 3, "num_classes": 2}, 1_987_722),
    ],
)
def test_default_cfg(name: str, options: dict[str, Any], num_params: int) -> None:
    model: Any = timm.create_model(name, device="meta", dtype=torch.bfloat16, **options)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    types = {(t.device.type, t.dtype) for t in tensors.values() if t.is_floating_point()}
    assert types == {("meta", torch.bfloat16)}
    assert sum(p.numel() for p in model.parameters()) == num_params
    cfg = model.default_cfg
    assert cfg["license"] and cfg["paper_ids"] and cfg["origin_url"] and "url" not in cfg
    classifiers = (cfg["classifier"],) if isinstance(cfg["classifier"], str) else cfg["classifier"]
    assert {f"{c}.weight" for c in classifiers} == {n for n in model.state_dict() if n.startswith("head") if "w" in n}
    x = torch.empty(1, model.in_chans, *(64, 96, 32)[: model.spatial_dims], device="meta", dtype=torch.bfloat16)
    assert model.eval()(x).shape == (1, model.num_classes, *x.shape[2:])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("attention_unet", {"not_an_argument": 1}, "not_an_argument"),
        ("attention_unet_3d", {"features_only": True}, "attention_unet_3d is a segmentation network; for its finest"),
        ("attention_unet", {"dims": (4,)}, r"dims must have two levels or more, got \(4,\)"),
        ("attention_unet", {"init": "xavier"}, "init must be one of framework, kaiming, got 'xavier'"),
        ("attention_unet", {"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ("attention_unet_3d_multi", {"shared_gating": True}, "one gate on each skip connection, got num_gates 2"),
        ("attention_unet_3d", {"stride": (2, 2)}, "expected one number or 3, one for each axis"),
        ("attention_unet_monai", {"strides": (2, 2)}, r"expected 4 strides for dims \(4, 6, 8, 10, 12\), got \(2, 2\)"),
        ("attention_unet", {"pretrained": True}, "No pretrained weights exist for attention_unet"),
    ],
)
def test_bad_options_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
        create(name, **options)


@every_network
def test_bad_inputs_are_named(name: str) -> None:
    model = create(name)
    axes = "H, W" if model.spatial_dims == 2 else "D, H, W"
    for shape in ((2, 5, *(16,) * model.spatial_dims), (2, model.in_chans, 16)):
        with pytest.raises(ValueError, match=rf"input must be \[B, {model.in_chans}, {axes}\], got"):
            model(torch.ones(shape))


@every_network
def test_any_size(name: str) -> None:
    model = create(name)
    for size in ((1, 1, 1), (33, 16, 7), (16, 50, 17)):
        x = picture(model, *size)
        size = size[: model.spatial_dims]
        with torch.inference_mode():
            logits, attention = model(x, return_attention=True)
            assert torch.equal(model(x), logits)
            torch.testing.assert_close(model(x[1:]), logits[1:], rtol=1e-4, atol=1e-5)
        assert logits.shape == (2, 3, *size) and logits.isfinite().all()
        # The coarsest first; published networks have no gate at full resolution.
        steps = (8, 4, 2, 1) if name in ("attention_unet", "attention_unet_monai") else (8, 4, 2)
        gates = len(attention) // len(steps)
        assert gates == (2 if name.endswith("multi") else 1)
        for index, step in enumerate(steps):
            for coefficients in attention[index * gates : (index + 1) * gates]:
                assert coefficients.shape == (2, 1, *(-(-side // step) for side in size))
                assert coefficients.min() >= 0 and coefficients.max() <= 1


def test_other_sizes_repeat_the_last_line() -> None:
    model = create("attention_unet")
    x = picture(model, 33, 47)
    logits, attention = model(x, return_attention=True)
    whole_logits, whole = model(F.pad(x, (0, 1, 0, 15), mode="replicate"), return_attention=True)
    assert torch.equal(logits, whole_logits[:, :, :33, :47])
    assert torch.equal(attention[0], whole[0][:, :, :5]) and torch.equal(attention[3], whole[3][:, :, :33, :47])
    volumes = create("attention_unet_3d")
    x = picture(volumes, 16, 17, 30)
    assert torch.equal(volumes(x), volumes(F.pad(x, (0, 2, 0, 15, 0, 0), mode="replicate"))[:, :, :, :17, :30])


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


def test_the_popular_network_step_by_step() -> None:
    model = create("attention_unet", dims=(4, 6, 8))
    x = picture(model, 16, 24)
    first = model.stages[0].blocks(x)
    second = model.stages[1].blocks(F.max_pool2d(first, 2))
    y = model.stages[2].blocks(F.max_pool2d(second, 2))
    for level, skip in zip(model.decoder, (second, first), strict=True):
        y = level.up(y.repeat_interleave(2, 2).repeat_interleave(2, 3))
        y = level.merge(torch.cat([level.gate(x=skip, gating=y), y], 1))
    torch.testing.assert_close(model(x), model.head.fc(y))


@every_network
def test_classes_and_channels(name: str) -> None:
    model = create(name, in_chans=2)
    x = picture(model)
    model.reset_classifier(5)
    assert model.num_classes == 5 and model(x).shape == (2, 5, *x.shape[2:])
    model.double().reset_classifier(0)
    features = model(x.double())
    assert features.shape == (2, DIMS[0], *x.shape[2:]) and model.num_features == DIMS[0]
    model.reset_classifier(3)
    assert model(x.double()).dtype == torch.float64 and not model.head.training
    assert model.get_classifier() is model.head
    assert create(name, num_classes=0)(picture(create(name))).shape[1] == DIMS[0]


@every_network
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = create(name).train()
    found = gradients(model, model(picture(model)).square().sum())
    assert set(found) == {name for name, _ in model.named_parameters()}
    for key, gradient in found.items():
        assert gradient.isfinite().all()
        # A bias before a norm is without effect in training.
        assert gradient.abs().sum() > 0 or (key.endswith("conv.bias") and "decoder" in key), key


def test_two_levels_have_neither_gates_nor_a_signal_for_them() -> None:
    # Parameters without gradients would stop a run of several processes.
    model = timm.create_model("attention_unet_3d", dims=(2, 4)).train()
    logits, attention = model(torch.randn(2, 1, 4, 4, 4), return_attention=True)
    assert attention == []
    assert set(gradients(model, logits.square().sum())) == {name for name, _ in model.named_parameters()}


@every_network
def test_training_with_one_sample(name: str) -> None:
    model = create(name).train()
    x = picture(model, 32, 16, 16, batch=1)
    loss = model(x).square().mean()
    assert all(gradient.isfinite().all() for gradient in gradients(model, loss).values())
    with pytest.raises(ValueError, match="batch norm cannot train on one sample of .* use two or more samples"):
        model(picture(model, 16, 5, 16, batch=1))
    assert model(picture(model, 16, 5, 16, batch=2)).isfinite().all()
    assert model.eval()(picture(model, 16, 5, 16, batch=1)).isfinite().all()


@every_network
def test_grad_checkpointing_changes_nothing(name: str) -> None:
    model = create(name)
    x = picture(model)
    expected = model(x)
    expected_gradients = gradients(model, expected.square().sum())
    calls = []
    for module in (*model.stages, *model.decoder):
        module.register_forward_pre_hook(lambda *_: calls.append(1))
    model.set_grad_checkpointing()
    actual = model(x)
    forwards = len(calls)
    found = gradients(model, actual.square().sum())
    assert len(calls) == 2 * forwards == 18
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(found, expected_gradients)


@every_network
def test_initialisation(name: str) -> None:
    for init in ("kaiming", "framework"):
        model = create(name, init=init, dims=(16, 24, 32, 40, 48))
        weight = model.stages[4].blocks[1].conv.weight
        fan_in = weight[0].numel()
        assert weight.std().item() == pytest.approx((2 if init == "kaiming" else 1 / 3) ** 0.5 * fan_in**-0.5, rel=0.1)
        scales = torch.cat([m.weight for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)])
        assert scales.std().item() == pytest.approx(0.02 if init == "kaiming" else 0.0, rel=0.2)
    published = "framework" if name in ("attention_unet", "attention_unet_monai") else "kaiming"
    model, empty = create(name), timm.create_model(name, **SMALL[name], num_classes=3, device="meta")
    assert model.init == published
    empty.to_empty(device="cpu")
    for parameter in empty.parameters():
        nn.init.constant_(parameter, float("nan"))
    for network in (model, empty):
        torch.manual_seed(3)
        network.init_weights()
    torch.testing.assert_close(empty.state_dict(), model.state_dict(), rtol=0, atol=0)


@every_network
def test_own_weights_come_back(name: str, tmp_path: Path) -> None:
    model = create(name)
    x = picture(model)
    save_file(model.state_dict(), tmp_path / "own.safetensors")
    save_for_hf(model, tmp_path / "hub", safe_serialization=True)
    overlay = {"file": str(tmp_path / "own.safetensors"), "num_classes": 3}
    options = {**SMALL[name], "pretrained": True}
    again = timm.create_model(name, num_classes=3, pretrained_cfg_overlay=overlay, **options).eval()
    hub = timm.create_model(f"local-dir:{tmp_path / 'hub'}", **options).eval()
    finer: Any = timm.create_model(name, num_classes=7, pretrained_cfg_overlay=overlay, **options).eval()
    for other in (again, hub):
        assert torch.equal(other(x), model(x))
    # For other classes, all but the classifier is taken over.
    assert finer(x).shape[1] == 7
    model.reset_classifier(0)
    finer.reset_classifier(0)
    assert torch.equal(finer(x), model(x))


@every_network
def test_files_that_do_not_fit_are_refused(name: str, tmp_path: Path) -> None:
    weights = create(name).state_dict()
    declared = timm.get_pretrained_cfg(name).num_classes
    with pytest.raises(ValueError, match=r"does not fit \w+: missing stages.0.blocks.0.conv.weight.* unexpected fc.w"):
        build(name, {"fc.weight": torch.ones(2, 2)}, tmp_path, **SMALL[name])
    torch.save(weights, tmp_path / "three.pth")
    with pytest.raises(ValueError, match=rf"has 3 classes, its pretrained cfg {declared}; pass"):
        overlay = {"file": str(tmp_path / "three.pth")}
        timm.create_model(name, pretrained=True, num_classes=3, pretrained_cfg_overlay=overlay, **SMALL[name])


@every_network
def test_groups_of_parameters(name: str) -> None:
    model = create(name)
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    assert set(layers) == {name for name, _ in model.named_parameters()}
    assert max(layers.values()) == layers[next(name for name in layers if name.startswith("head"))]
    assert layers["stages.0.blocks.0.conv.weight"] == 0 < layers["stages.4.blocks.0.conv.weight"]
    decoder = [layers[next(name for name in layers if name.startswith(f"decoder.{level}.merge"))] for level in range(4)]
    assert layers["stages.4.blocks.0.conv.weight"] < decoder[0] and decoder == sorted(set(decoder))
    exempt, decayed = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    assert all(p.ndim == 1 for p in exempt["params"]) and all(p.ndim > 1 for p in decayed["params"])


@every_network
def test_16_bits(name: str) -> None:
    model = create(name)
    x = picture(model)
    with torch.inference_mode():
        expected = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(x)
        narrow = model.bfloat16()(x.bfloat16())
    assert narrow.dtype == torch.bfloat16
    for actual in (mixed, narrow):
        assert (actual.float() - expected).std() < 0.05 * expected.std()


@every_network
def test_channels_last_stays_so(name: str) -> None:
    model = create(name)
    found = channels_last_outputs(model, model.spatial_dims, picture(model))
    # PyTorch's instance norm, which only MONAI's network has, copies.
    wrong = [key for key, last in found.items() if not last and ".merge." not in f"{key}."]
    assert len(found) > 40 and not wrong
    if name != "attention_unet_monai":
        assert all(found.values())


def create_shallow(name: str) -> Any:
    return create(name, dims=(4, 6, 8), **({"strides": (2, 2)} if name.endswith("monai") else {}))


@pytest.mark.parametrize("name", ["attention_unet", "attention_unet_3d", "attention_unet_monai"])
def test_compile(name: str) -> None:
    torch._dynamo.reset()
    model = create_shallow(name)
    x = picture(model, 13, 8, 12)
    expected = model(x, return_attention=True)
    expected_gradients = gradients(model, expected[0].square().sum())
    actual = torch.compile(model, backend="aot_eager", fullgraph=True)(x, return_attention=True)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    found = gradients(model, actual[0].square().sum())
    torch.testing.assert_close(found, expected_gradients, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["attention_unet", "attention_unet_3d", "attention_unet_monai"])
def test_export_and_onnx_at_any_size(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = create_shallow(name)
    # Multiples of the coarsest level's stride, where it has more than one position.
    sides = {axis: 4 * torch.export.Dim(f"n{axis}", min=2, max=64) for axis in range(2, 2 + model.spatial_dims)}
    shapes = ({0: torch.export.Dim("batch", min=1, max=64), **sides},)
    program = torch.export.export(model, (picture(model, 8, 12, 16),), dynamic_shapes=shapes)
    names = {"input_names": ["image"], "output_names": ["logits"]}
    torch.onnx.export(program, f=tmp_path / "unet.onnx", dynamo=True, optimize=False, verbose=False, **names)
    session = onnxruntime.InferenceSession(tmp_path / "unet.onnx", providers=["CPUExecutionProvider"])
    for size, batch in (((8, 16, 24), 3), ((40, 24, 8), 1)):
        x = picture(model, *size, batch=batch, seed=1)
        with torch.inference_mode():
            expected = model(x)
        torch.testing.assert_close(program.module()(x), expected, rtol=1e-4, atol=1e-5)
        (found,) = session.run(None, {"image": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)
