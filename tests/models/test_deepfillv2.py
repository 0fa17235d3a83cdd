"""DeepFill v2: the published networks' outputs, weights under every published name, and what users do with it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import Tensor, nn

import gatedvision
from gatedvision.layers import GatedConv2d, resize_nearest_aligned
from gatedvision.layers.seamless import clone_seamlessly
from gatedvision.models import DeepFillV2, composite
from gatedvision.models._deepfill_names import LAYOUTS, convert_generator, swap_colours
from tests.golden.golden import Record, draw_input, find_records
from tests.models.cases import GENERATORS

RECORDS = {record.name: record for record in find_records("inpainting") if "deepfillv2" in record.name}
every_generator = pytest.mark.parametrize("name", GENERATORS)


def recorded_weights(record: Record, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the weights under the record's names, in which kernels are enlarged."""
    weights = record.weights(dtype)
    return {name: 2.3 * value if name.endswith(".weight") else value for name, value in weights.items()}


def tensorflow_weights(record: Record, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the same under TensorFlow's names, kernels as HWIO, beside what else lies in its checkpoints."""
    weights = recorded_weights(record, dtype)
    variables = {}
    for name, facts in record.facts["tf_keys"].items():
        value = weights[facts["key"]]
        variables[name] = value.permute(2, 3, 1, 0).contiguous() if value.ndim == 4 else value
        assert list(variables[name].shape) == facts["tf_shape"]
        variables[f"{name}/Adam"] = torch.zeros_like(variables[name])
    return {**variables, "lr": torch.tensor(1e-4), "discriminator/sn_patch_gan/conv1/bias": torch.zeros(64)}


def recorded_mask(record: Record) -> Tensor:
    shape = (1, 1, *record.facts["input_shape"][2:])
    packed = record.arrays()["mask_packed"].numpy().astype(np.uint8)
    mask = torch.from_numpy(np.unpackbits(packed)[: shape[2] * shape[3]].reshape(shape)).bool()
    assert int(mask.sum()) == int(record.arrays()["mask_sum"])
    return mask


def build(name: str, weights: dict[str, Any], tmp_path: Path, **kwargs: Any) -> Any:
    """Build a model from a file, as a user would."""
    file = tmp_path / "published.pth"
    torch.save(weights, file)
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(file)}, **kwargs).eval()
    file.unlink()
    return model


def layer_outputs(model: nn.Module, layers: dict[str, str]) -> dict[str, Tensor]:
    """Keep what layers return, under their published names."""
    found: dict[str, Tensor] = {}
    for published, own in {**layers, "contextual_attention": "refine.attention"}.items():
        hook = lambda _module, _inputs, output, name=published: found.update({name: output})  # noqa: E731
        model.get_submodule(own).register_forward_hook(hook)
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", RECORDS)
def test_record(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    record = RECORDS[name]
    image = torch.tanh(draw_input(*record.facts["input_shape"])).to(dtype)
    if "tf_keys" in record.facts:
        # The published network sees BGR, ours RGB.
        model = build("deepfillv2", tensorflow_weights(record, dtype), tmp_path, dtype=dtype)
        found = layer_outputs(model, LAYOUTS["tensorflow"][1])
        image = image.flip(1)
    else:
        model = "deepfillv2_port" if "ptpad" in name else "deepfillv2_mmagic"
        model, found = build(model, recorded_weights(record, dtype), tmp_path, dtype=dtype), {}
    assert sum(p.numel() for p in model.parameters()) == record.facts["num_params"]
    with torch.inference_mode():
        coarse, refined = model(image, recorded_mask(record))
    if "tf_keys" in record.facts:
        coarse, refined = coarse.flip(1), refined.flip(1)
        for layer in ("conv17", "allconv17"):
            found[layer] = found[layer].flip(1)

    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    expected = record.arrays()
    step = -(-record.facts["input_shape"][2] // expected["stage1_sub"].shape[2])
    for stage, output in (("stage1", coarse), ("stage2", refined)):
        error = output[:, :, ::step, ::step].double() - expected[f"{stage}_sub"]
        # Of the outputs' range, which is 2. The record's weights let any other order of the same sums move single
        # pixels of the second stage by some 1e-4 in float32, float32 attention or not: few of them, and not on average.
        assert error.abs().max() <= 2 * tolerance, f"{stage}: off by {error.abs().max():.2e}"
        assert error.abs().quantile(0.99) <= tolerance and error.square().mean().sqrt() <= tolerance / 2
        rms = output.square().mean((1, 2, 3)).sqrt().double()
        torch.testing.assert_close(rms, expected[f"{stage}_l2"], rtol=0, atol=tolerance)
    for key, values in expected.items():
        layer, _, statistic = key.rpartition(".")
        if layer in found:
            output = found[layer]
            actual = output.mean((0, 2, 3))[:48] if statistic == "mean" else output[0, :8, 0, 0]
            limit = tolerance * float(values.abs().max())
            torch.testing.assert_close(actual.double(), values, rtol=0, atol=limit, msg=lambda m, k=key: f"{k}: {m}")
    assert len(found) == (43 if "tf_keys" in record.facts else 0)


def test_every_name_of_the_published_weights_gives_the_same_tensors() -> None:
    record = RECORDS["deepfillv2_generator_136x200"]
    from_port, padding = convert_generator({"G": recorded_weights(record, torch.float32), "D": {}, "n_iter": 1})
    from_tensorflow, _ = convert_generator(tensorflow_weights(record, torch.float32))
    with_suffix, _ = convert_generator(
        {f"{n}:0": v for n, v in tensorflow_weights(record, torch.float32).items()}, False
    )
    assert padding == "same" and set(from_port) == set(DeepFillV2(device="meta").state_dict())
    torch.testing.assert_close(swap_colours(from_port), from_tensorflow, rtol=0, atol=0)
    torch.testing.assert_close(from_port, with_suffix, rtol=0, atol=0)
    # Only what touches colours is another.
    changed = {name for name, value in from_port.items() if not torch.equal(value, from_tensorflow[name])}
    first = {f"{stage}.0.weight" for stage in ("coarse.encoder", "refine.encoder", "refine.attention_encoder")}
    last = {f"{stage}.decoder.6.{leaf}" for stage in ("coarse", "refine") for leaf in ("weight", "bias")}
    assert changed == first | last
    assert torch.equal(from_port["coarse.encoder.0.weight"][:, 3:], from_tensorflow["coarse.encoder.0.weight"][:, 3:])


@pytest.mark.parametrize(
    ("name", "record"),
    [("deepfillv2", "deepfillv2_generator_ptpad_256"), ("deepfillv2_port", "deepfillv2_generator_256")],
)
def test_weights_of_another_padding_are_refused(name: str, record: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"these are weights of deepfillv2\w* \(padding '\w+'\), the model pads"):
        build(name, recorded_weights(RECORDS[record], torch.float32), tmp_path)


def test_files_of_other_networks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not fit DeepFillV2: missing coarse.encoder.0.weight.* unexpected fc.w"):
        build("deepfillv2", {"fc.weight": torch.ones(2, 2)}, tmp_path, dim=8)


def create(name: str = "deepfillv2", **kwargs: Any) -> Any:
    torch.manual_seed(0)
    model = timm.create_model(name, **{"dim": 12, **kwargs}).eval()
    # As drawn, gates halve the signal so often that little of the image is left at the end.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.device.type != "meta":
                parameter.mul_(1.5) if parameter.ndim > 1 else parameter.uniform_(-0.2, 0.2)
    return model


def pictures(*size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return two images in [-1, 1] and holes, another for each."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(2, 3, *size, generator=generator) * 2 - 1
    mask = torch.zeros(2, 1, *size, dtype=torch.bool)
    mask[0, :, size[0] // 4 : size[0] // 2 + 1, size[1] // 3 : size[1] // 2 + 1] = True
    mask[1, :, : size[0] // 3, size[1] // 2 :] = True
    return image, mask


def gradients(model: nn.Module, outputs: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    sum(x.square().sum() for x in outputs).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@every_generator
def test_default_cfg(name: str) -> None:
    model: Any = timm.create_model(name, device="meta", dtype=torch.bfloat16)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert {(t.device.type, t.dtype) for t in tensors.values()} == {("meta", torch.bfloat16)}
    image = torch.empty(1, *model.default_cfg["input_size"], device="meta", dtype=torch.bfloat16)
    outputs = model(image, torch.empty(1, 1, 256, 256, device="meta", dtype=torch.bool))
    assert [tuple(x.shape) for x in outputs] == [(1, 3, 256, 256)] * 2
    assert model.default_cfg["license"] and model.default_cfg["origin_url"]
    assert name in gatedvision.list_models("deepfill*")
    # What may be downloaded is what its licence lets everybody use.
    downloads = gatedvision.list_models(f"{name}*", pretrained=True)
    assert any(tag.startswith(f"{name}.") for tag in downloads) == (name == "deepfillv2_mmagic")


@pytest.mark.parametrize("argument", ["not_an_argument", "num_classes"])
def test_unknown_argument_is_an_error(argument: str) -> None:
    with pytest.raises(TypeError, match=argument):
        create(**{argument: 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features_only": True}, "deepfillv2 is a generator and has no features to return"),
        ({"dim": 6}, "dim must be a positive multiple of 4, got 6"),
        ({"init_gain": 0.0}, "init_gain must be positive and finite, got 0.0"),
        ({"init_gain": float("nan")}, "init_gain must be positive and finite, got nan"),
        ({"padding": "valid"}, "padding must be one of same, symmetric, reflect, got 'valid'"),
        ({"attention_block": 0}, "block must be at least 1 query or None, got 0"),
        ({"pretrained": True}, "No pretrained weights exist for deepfillv2"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=message):
        create(**options)


def test_own_weights_come_back(tmp_path: Path) -> None:
    model, inputs = create(), pictures(16, 24)
    save_file(model.state_dict(), tmp_path / "own.safetensors")
    save_for_hf(model, tmp_path / "hub", safe_serialization=True)
    overlay = {"file": str(tmp_path / "own.safetensors")}
    again = timm.create_model("deepfillv2", dim=12, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    hub = timm.create_model(f"local-dir:{tmp_path / 'hub'}", dim=12, pretrained=True).eval()
    for other in (again, hub):
        assert torch.equal(other(*inputs)[1], model(*inputs)[1])


@every_generator
@pytest.mark.parametrize("size", [(1, 1), (8, 40), (33, 47), (64, 72)], ids=str)
def test_any_size(name: str, size: tuple[int, int]) -> None:
    model, (image, mask) = create(name), pictures(*size)
    with torch.inference_mode():
        together = model(image, mask)
        alone = model(image[1:], mask[1:])
    for batch, single in zip(together, alone, strict=True):
        assert batch.shape == image.shape and batch.isfinite().all() and batch.abs().max() <= 1
        torch.testing.assert_close(batch[1:], single, rtol=1e-4, atol=1e-5)


def test_other_sizes_repeat_the_last_line() -> None:
    model, (image, mask) = create(), pictures(33, 47)
    longer = [nn.functional.pad(x.float(), (0, 1, 0, 7), mode="replicate") for x in (image, mask)]
    for cut, whole in zip(model(image, mask), model(*longer), strict=True):
        torch.testing.assert_close(cut, whole[:, :, :33, :47], rtol=0, atol=0)


def test_the_stages_step_by_step() -> None:
    model, (image, mask) = create().double(), pictures(32, 40)
    image, hole = image.double(), mask.double()
    known = image * (1 - hole)
    coarse = torch.tanh(model.coarse(torch.cat([known, torch.ones_like(hole), hole], 1)))
    filled = coarse * hole + image * (1 - hole)
    refined = torch.tanh(model.refine(filled, resize_nearest_aligned(hole, 8, 10)))
    torch.testing.assert_close(model(image, mask), (coarse, refined))


@every_generator
def test_what_lies_in_the_hole_does_not_matter(name: str) -> None:
    model, (image, mask) = create(name), pictures(24, 32)
    expected = model(image, mask)
    for content in (0.7, torch.nan):
        assert all(map(torch.equal, model(image.masked_fill(mask, content), mask), expected))
    # Floating masks count as holes above a half.
    soft = torch.where(mask, 0.6, 0.4)
    assert all(map(torch.equal, model(image, soft), expected))


def test_seamless_stages_are_cloned_into_the_image() -> None:
    model, (image, mask) = create(seamless=True).double(), pictures(32, 40)
    image, hole = image.double(), mask.double()
    known = image * (1 - hole)
    painted = torch.tanh(model.coarse(torch.cat([known, torch.ones_like(hole), hole], 1)))
    coarse = clone_seamlessly(image, mask, painted)
    refined = torch.tanh(model.refine(coarse, resize_nearest_aligned(hole, 8, 10)))
    found = model(image, mask)
    torch.testing.assert_close(found, (coarse, clone_seamlessly(image, mask, refined)))
    assert all(torch.equal(x.masked_select(~mask), image.masked_select(~mask)) for x in found)


def test_initial_gain_lets_the_image_through() -> None:
    """Two images make no difference to what a stage paints, or a good part of their contrast."""
    image, mask = pictures(128, 128)
    spread = []
    for gain in (1.0, 2.3):
        torch.manual_seed(0)
        model = DeepFillV2(dim=48, init_gain=gain)
        with torch.inference_mode():
            spread.append(float((model(image, mask)[0] - model(-image, mask)[0]).std() / image.std()))
    assert spread[0] < 1e-6 < 1e-1 < spread[1]


def test_composite_keeps_known_pixels_bit_by_bit() -> None:
    image, mask = pictures(9, 7)
    image[0, 0, 0, 0] = -0.0
    refined = torch.full_like(image, torch.nan, dtype=torch.bfloat16)
    refined = torch.where(mask, torch.tensor(0.25, dtype=torch.bfloat16), refined)
    result = composite(image, mask, refined)
    hole = mask.expand_as(image)
    assert result.dtype == image.dtype and (result[hole] == 0.25).all()
    assert torch.equal(result[~hole].view(torch.int32), image[~hole].view(torch.int32))
    assert torch.equal(result, composite(image, mask.float(), refined))


def test_sketch_guides_the_hole_alone() -> None:
    model, (image, mask) = create(sketch=True), pictures(24, 32)
    edges = (torch.rand(2, 1, 24, 32, generator=torch.Generator().manual_seed(1)) > 0.8).float()
    expected = model(image, mask, edges)
    assert not torch.allclose(model(image, mask, torch.zeros_like(edges))[0], expected[0])
    assert all(map(torch.equal, model(image, mask, edges * mask), expected))
    # Channels as published: colours, sketch, ones, mask; of the hole only.
    inputs = torch.cat([image * ~mask, edges * mask, torch.ones_like(edges), mask.float()], 1)
    torch.testing.assert_close(torch.tanh(model.coarse(inputs)), expected[0])


def test_other_channels() -> None:
    model, (image, mask) = create(in_chans=1), pictures(16, 24)
    assert [tuple(x.shape) for x in model(image[:, :1], mask)] == [(2, 1, 16, 24)] * 2


@pytest.mark.parametrize(
    ("image", "mask", "sketch", "message"),
    [
        ((2, 4, 8, 8), (2, 1, 8, 8), None, r"image must be \[B, 3, H, W\], got \(2, 4, 8, 8\)"),
        ((2, 3, 8, 8), (2, 1, 8, 9), None, r"mask must be \[B, 1, H, W\] for image \(2, 3, 8, 8\), got \(2, 1, 8, 9\)"),
        ((2, 3, 8, 8), (1, 1, 8, 8), None, r"got \(1, 1, 8, 8\)"),
        ((2, 3, 8, 8), (2, 1, 8, 8), (2, 1, 8, 8), "this generator takes no sketch; build it with sketch=True"),
    ],
)
def test_bad_inputs_are_named(image: Any, mask: Any, sketch: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create()(torch.ones(image), torch.ones(mask), None if sketch is None else torch.ones(sketch))
    with pytest.raises(ValueError, match="this generator needs a sketch"):
        create(sketch=True)(torch.ones(2, 3, 8, 8), torch.ones(2, 1, 8, 8))


@every_generator
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model, inputs = create(name).train(), pictures(72, 80)
    found = gradients(model, model(*inputs))
    assert set(found) == {name for name, _ in model.named_parameters()}
    assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in found.values())


def test_grad_checkpointing_and_blocks_change_nothing() -> None:
    model, inputs = create().train(), pictures(32, 40)
    outputs = model(*inputs)
    expected = gradients(model, outputs)
    calls = []
    for module in model.modules():
        if isinstance(module, GatedConv2d):
            module.register_forward_pre_hook(lambda *_: calls.append(1))
    model.set_grad_checkpointing()
    model.refine.attention.block = 7
    actual = model(*inputs)
    forwards = len(calls)
    found = gradients(model, actual)
    # The backward pass ran every layer again.
    assert len(calls) == 2 * forwards > 0
    torch.testing.assert_close(actual, outputs)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_first_mask_only_is_about_the_attention() -> None:
    model, (image, mask) = create(), pictures(32, 40)
    coarse, refined = model(image, mask)
    model.refine.attention.first_mask_only = True
    published = model(image, mask)
    assert torch.equal(published[0], coarse) and torch.equal(published[1][0], refined[0])
    assert not torch.allclose(published[1][1], refined[1])
    assert create(first_mask_only=True).refine.attention.first_mask_only


def test_init_weights_fills_an_empty_model() -> None:
    model: Any = DeepFillV2(dim=8)
    empty = DeepFillV2(dim=8, device="meta").to_empty(device="cpu")
    for parameter in empty.parameters():
        nn.init.constant_(parameter, float("nan"))
    for network in (model, empty):
        torch.manual_seed(3)
        network.init_weights()
    torch.testing.assert_close(empty.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_16_bits_and_channels_last() -> None:
    model, (image, mask) = create(), pictures(40, 48)
    last = image.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = model(image, mask)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(image, mask)
        model.to(memory_format=torch.channels_last)
        torch.testing.assert_close(model(last, mask), expected, rtol=1e-4, atol=1e-5)
        narrow = model.bfloat16()(last.bfloat16(), mask)
    for actual, wide in (*zip(mixed, expected, strict=True), *zip(narrow, expected, strict=True)):
        assert actual.dtype == torch.bfloat16
        # Sixteen-bit rounding through some thirty layers.
        assert (actual.float() - wide).std() < 0.1 * wide.std()


def test_compile() -> None:
    torch._dynamo.reset()
    model, inputs = create(dim=4), pictures(24, 32)
    expected = model(*inputs)
    expected_gradients = gradients(model, expected)
    actual = torch.compile(model, backend="aot_eager", fullgraph=True)(*inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients(model, actual), expected_gradients, rtol=1e-3, atol=1e-4)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*:FutureWarning")
def test_trace() -> None:
    model = create(dim=4)
    traced: Any = torch.jit.trace(model, pictures(64, 48), check_trace=False)
    image, mask = pictures(64, 48, seed=1)
    torch.testing.assert_close(traced(image, mask), model(image, mask), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("seamless", "least"), [(False, 2), (True, 8)])
def test_export_and_onnx_at_any_size(seamless: bool, least: int, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = create(dim=4, seamless=seamless)
    height, width = (8 * torch.export.Dim(side, min=least, max=512) for side in ("rows", "columns"))
    shapes = {2: height, 3: width}
    program = torch.export.export(model, pictures(16 * least, 24 * least), dynamic_shapes=(shapes, shapes))
    names = {"input_names": ["image", "mask"], "output_names": ["coarse", "refined"]}
    torch.onnx.export(program, f=tmp_path / "generator.onnx", dynamo=True, optimize=False, verbose=False, **names)
    session = onnxruntime.InferenceSession(tmp_path / "generator.onnx", providers=["CPUExecutionProvider"])
    for size in ((8 * least, 12 * least), (136, 72)):
        image, mask = pictures(*size, seed=1)
        with torch.inference_mode():
            expected = model(image, mask)
        torch.testing.assert_close(program.module()(image, mask), expected, rtol=1e-4, atol=1e-5)
        found = session.run(None, {"image": image.numpy(), "mask": mask.numpy()})
        torch.testing.assert_close([torch.from_numpy(x) for x in found], list(expected), rtol=1e-3, atol=1e-5)
