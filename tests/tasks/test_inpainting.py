import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from gatedvision.engine.amp import AmpOptimWrapper
from gatedvision.engine.several_optimizers import Optimizers
from gatedvision.models import PatchDiscriminator
from gatedvision.tasks import Inpainting
from gatedvision.tasks._inpainting_losses import adversarial_loss, discriminator_hinge_loss, l1_loss
from tests.golden.golden import draw_input, find_records

NANO = {"model_name": "deepfillv2", "dim": 8}
DIMS = (8, 8, 8, 8, 8, 8)


def build(**options) -> Inpainting:
    torch.manual_seed(0)
    return Inpainting(**{"generator": NANO, "discriminator": {"dims": DIMS}, **options})


def draw_batch(images: int = 2, height: int = 64, width: int = 64, sketch: bool = False) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    batch = {
        "inputs": torch.randint(256, (images, 3, height, width), dtype=torch.uint8, generator=generator),
        "masks": torch.zeros(images, 1, height, width, dtype=torch.uint8),
    }
    for index in range(images):
        batch["masks"][index, :, 8 : 24 + 8 * index, 10:40] = 1
    if sketch:
        batch["sketches"] = torch.randint(2, (images, 1, height, width), dtype=torch.uint8, generator=generator)
    return batch


def optimizers(model: Inpainting, amp: str | None = None, rate: float = 0.1) -> Optimizers:
    return Optimizers(
        **{
            name: AmpOptimWrapper(optimizer=torch.optim.SGD(getattr(model, name).parameters(), lr=rate), amp=amp)
            for name in ("generator", "discriminator")
        }
    )


def test_losses_are_those_of_the_published_program():
    (record,) = (record for record in find_records("inpainting") if record.name == "losses")
    expected = record.arrays()
    real, fake = draw_input(2, 64, seed=1), 1.5 * draw_input(2, 64, seed=2)
    image, coarse, refined = (draw_input(2, 3, 16, 16, seed=seed).tanh() for seed in (3, 4, 5))
    found = {
        "d_loss": discriminator_hinge_loss(real, fake),
        "g_adv": adversarial_loss(fake),
        "l1_stage1": l1_loss(coarse, image),
        "l1_stage2": l1_loss(refined, image),
    }
    found["g_total"] = found["g_adv"] + found["l1_stage1"] + found["l1_stage2"]
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-9, msg=name)
    assert discriminator_hinge_loss(real.bfloat16(), fake.half()).dtype == torch.float32


def test_losses_of_a_batch_are_the_formulas():
    model = build(gan_weight=0.3, l1_weight=2.0).eval()
    batch = draw_batch()
    images, holes = batch["inputs"] / 127.5 - 1, batch["masks"].float()
    coarse, refined = model(**batch)
    assert coarse.shape == refined.shape == (2, 3, 64, 64)
    completed = refined * holes + images * (1 - holes)
    fake, real = model.discriminator(completed, holes), model.discriminator(images, holes)
    losses = model(**batch, mode="loss")
    assert list(losses) == ["loss_discriminator", "loss_l1_coarse", "loss_l1_refined", "loss_adversarial"]
    torch.testing.assert_close(losses["loss_discriminator"], discriminator_hinge_loss(real, fake))
    torch.testing.assert_close(losses["loss_l1_coarse"], 2 * (coarse - images).abs().mean())
    torch.testing.assert_close(losses["loss_l1_refined"], 2 * (refined - images).abs().mean())
    torch.testing.assert_close(losses["loss_adversarial"], -0.3 * fake.mean())
    # Images that are normalised already, and those that are lists, are the same.
    torch.testing.assert_close(model(images, list(batch["masks"]), mode="loss"), losses)


@pytest.mark.parametrize("separate", [False, True], ids=["one_batch", "separate_batches"])
def test_a_step_of_each_in_the_published_order(separate):
    model, reference = build(separate_batches=separate), build()
    batch = draw_batch(4)
    halves = [{key: value[part] for key, value in batch.items()} for part in (slice(0, 2), slice(2, 4))]
    first, second = halves if separate else (batch, batch)
    report = model.train_step({**batch, "names": ["a", "b", "c", "d"]}, optimizers(model))

    # The discriminator first, against the generator as it was; then the generator, against the new discriminator.
    steps = {
        name: torch.optim.SGD(getattr(reference, name).parameters(), lr=0.1) for name in ("generator", "discriminator")
    }
    losses = reference(**first, mode="discriminator_loss")
    losses["loss_discriminator"].backward()
    assert all(parameter.grad is None for parameter in reference.generator.parameters())
    steps["discriminator"].step()
    parts = reference(**second, mode="generator_loss")
    sum(parts.values()).backward()
    steps["generator"].step()
    for (name, weight), expected in zip(model.state_dict().items(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6, msg=name)
    expected = {**losses, "loss": sum(parts.values()), **parts}
    assert list(report) == list(expected)
    torch.testing.assert_close(dict(report), expected)


def test_the_discriminator_learns_nothing_in_the_turn_of_the_generator():
    model = build()
    gradients: dict[str, list[bool]] = {}
    for name, parameter in model.named_parameters():
        parameter.register_hook(lambda gradient, name=name: gradients.setdefault(name, []).append(True))
    model.train_step(draw_batch(), optimizers(model))
    # Each parameter gets one gradient a step, its own turn's.
    assert gradients == {name: [True] for name, _ in model.named_parameters()}
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_a_power_iteration_in_each_turn_and_none_in_evaluation():
    model = build()
    layer = model.discriminator.layers[1]
    assert is_parametrized(layer, "weight")
    calls = []
    layer.parametrizations.weight[0].register_forward_hook(lambda module, inputs, output: calls.append(module.training))
    model.train_step(draw_batch(), optimizers(model))
    assert calls == [True, True]
    vectors = {name: value.clone() for name, value in model.named_buffers()}
    assert len(vectors) == 2 * len(DIMS)
    model.eval()(**draw_batch(), mode="predict")
    model(**draw_batch(), mode="loss")
    assert all(torch.equal(value, vectors[name]) for name, value in model.named_buffers())


def test_bfloat16_trains_both_and_leaves_the_power_iteration_alone(device):
    # Autocast is the GPU's where there is one.
    model, full = build().to(device), build().to(device)
    seen: dict[str, set[torch.dtype]] = {}
    convs = [module for module in model.generator.modules() if isinstance(module, nn.Conv2d)]
    for name, modules in {"generator": convs, "discriminator": [model.discriminator]}.items():
        for module in modules:
            module.register_forward_hook(
                lambda module, inputs, output, name=name: seen.setdefault(name, set()).add(output.dtype)
            )
    reports = [each.train_step(draw_batch(), optimizers(each, amp)) for each, amp in ((model, "bf16"), (full, None))]
    assert seen == {"generator": {torch.bfloat16}, "discriminator": {torch.bfloat16}}
    # bfloat16 has 8 significant bits; the adversarial loss is nearly zero so far.
    torch.testing.assert_close(dict(reports[0]), dict(reports[1]), rtol=0.02, atol=2e-3)
    # A CPU leaves matrix by vector in full precision anyhow, a GPU does not.
    casts: list[bool] = []
    for layer in model.discriminator.layers:
        layer.parametrizations.weight[0].register_forward_hook(
            lambda *_: casts.append(torch.is_autocast_enabled(device.type))
        )
    model.train_step(draw_batch(), optimizers(model, "bf16"))
    assert casts == [False] * 2 * len(DIMS)


def test_predictions_keep_known_pixels_bit_by_bit_at_any_size():
    model = build().eval()
    batches = [draw_batch(1, *size) for size in ((64, 64), (43, 61), (9, 70))]
    images = [batch["inputs"][0] for batch in batches]
    masks = [batch["masks"][0] for batch in batches]
    predictions = model(images, masks, names=["a", "b", "c"], mode="predict")
    for image, mask, prediction in zip(images, masks, predictions, strict=True):
        assert {key: value.dtype for key, value in prediction.items() if key != "name"} == {
            "completed": torch.uint8,
            "coarse": torch.uint8,
            "image": torch.uint8,
            "mask": torch.bool,
        }
        for key in ("completed", "coarse", "image"):
            assert prediction[key].shape == image.shape
            assert torch.equal(prediction[key][:, mask[0] == 0], image[:, mask[0] == 0])
        assert torch.equal(prediction["image"], image) and torch.equal(prediction["mask"], mask > 0)
        hole = mask[0] > 0
        if hole.any():
            assert (prediction["completed"] != image)[:, hole].any()
    assert [prediction["name"] for prediction in predictions] == ["a", "b", "c"]
    # In the hole is what the second stage painted, and its content is of no account.
    _, refined = model(**batches[0])
    expected = ((refined[0] + 1) * 127.5).round().byte()
    hole = masks[0][0] > 0
    assert torch.equal(predictions[0]["completed"][:, hole], expected[:, hole])
    images[0][:, hole] = 0
    again = model(torch.stack(images[:1]), torch.stack(masks[:1]), mode="predict")
    assert torch.equal(again[0]["completed"], predictions[0]["completed"]) and "name" not in again[0]


def test_pictures_show_image_input_and_both_stages():
    model = build().eval()
    batch = draw_batch(1, 24, 48)
    [prediction] = model(**batch, mode="predict")
    picture = np.asarray(model.draw(batch["inputs"][0], prediction))
    whole, masked, coarse, completed = np.split(picture, 4, axis=1)
    hole = batch["masks"][0, 0].numpy() > 0
    np.testing.assert_array_equal(whole, batch["inputs"][0].permute(1, 2, 0).numpy())
    assert (masked[hole] == 127).all() and (masked[~hole] == whole[~hole]).all()
    np.testing.assert_array_equal(coarse, prediction["coarse"].permute(1, 2, 0).numpy())
    np.testing.assert_array_equal(completed, prediction["completed"].permute(1, 2, 0).numpy())


def test_a_sketch_guides_generator_and_discriminator_within_the_hole():
    model = build(generator={**NANO, "sketch": True})
    assert model.discriminator.in_chans == 5
    batch = draw_batch(sketch=True)
    seen: list[torch.Tensor] = []
    model.discriminator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[2]))
    losses = model.eval()(**batch, mode="loss")
    lines = batch["sketches"] * batch["masks"]
    assert [each.tolist() for each in seen] == [lines.repeat(2, 1, 1, 1).tolist(), lines.tolist()]
    outside = {**batch, "sketches": torch.where(batch["masks"] > 0, batch["sketches"], 1 - batch["sketches"])}
    torch.testing.assert_close(model(**outside, mode="loss"), losses, rtol=0, atol=0)
    inside = {**batch, "sketches": torch.where(batch["masks"] > 0, 1 - batch["sketches"], batch["sketches"])}
    assert all(not torch.equal(one, other) for one, other in zip(model(**inside), model(**batch), strict=True))
    lists = {key: list(value) for key, value in batch.items()}
    for one, other in zip(model(**batch, mode="predict"), model(**lists, mode="predict"), strict=True):
        assert torch.equal(one["completed"], other["completed"])
    model.train().train_step(batch, optimizers(model))


def test_compiling_leaves_the_names_alone():
    model = build()
    names = list(model.state_dict())
    model.compile_backbone(backend="eager")
    assert list(model.state_dict()) == names and model.generator._compiled_call_impl is not None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"generator": {"model_name": "deepfil_v2"}},
            ValueError,
            "unknown model 'deepfil_v2'; did you mean deepfillv2",
        ),
        ({"generator": {}}, TypeError, "model_name"),
        ({"gan_weight": -1.0}, ValueError, "gan_weight must not be negative, got -1.0"),
        ({"discriminator": {"depth": 3}}, TypeError, "depth"),
    ],
)
def test_settings_that_fit_nothing_are_named(options, error, message):
    with pytest.raises(error, match=message):
        build(**options)


def test_calls_that_fit_nothing_are_named():
    model, batch = build(), draw_batch()
    with pytest.raises(ValueError, match='mode must be "tensor", .* got .train'):
        model(**batch, mode="train")
    with pytest.raises(ValueError, match=r"masks \(2, 1, 64, 64\) do not fit images \(1, 3, 64, 64\)"):
        model(batch["inputs"][:1], batch["masks"])
    with pytest.raises(ValueError, match=r"this generator takes no sketches \(sketch=True\)"):
        model(**draw_batch(sketch=True))
    with pytest.raises(ValueError, match=r"this generator needs sketches \(data with_sketch=True\)"):
        build(generator={**NANO, "sketch": True})(**batch)
    with pytest.raises(ValueError, match=r"images of one batch differ in shape: .*; end the transforms with a crop"):
        model([batch["inputs"][0], batch["inputs"][0, :, 8:]], batch["masks"], mode="loss")
    single = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match=r"inpainting has two optimizers: optim_wrapper=dict\(generator=dict"):
        model.train_step(batch, single)
    with pytest.raises(ValueError, match="separate_batches needs at least two images a batch, got 1"):
        build(separate_batches=True).train_step(draw_batch(1), optimizers(model))


def test_the_published_discriminator_is_the_default():
    torch.manual_seed(0)
    model = Inpainting(NANO)
    assert isinstance(model.discriminator, PatchDiscriminator)
    assert sum(parameter.numel() for parameter in model.discriminator.parameters()) == 5_946_816
