"""What all attention U-Nets have in common, and what users do with them in two and three dimensions."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models import group_parameters, save_for_hf
from timm.optim import param_groups_weight_decay
from torch import nn

import gatedvision
from tests.layers.memory_layout import channels_last_outputs
from tests.models.attention_records import build
from tests.models.attention_unets import DIMS, SMALL, create, gradients, picture
from tests.models.cases import SEGMENTERS

every_network = pytest.mark.parametrize("name", SMALL)


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
    # Of one channel both layouts are one, and the logits come as PyTorch's default.
    model = create(name, in_chans=2)
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
    # In float64, as biases before an instance norm have gradients that are rounding and nothing else.
    model = create_shallow(name).double()
    x = picture(model, 13, 8, 12).double()
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
