import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedvision.engine import ParamGroups
from gatedvision.tasks import MedicalSegmentation
from gatedvision.tasks._overlap_losses import cross_entropy_loss, soft_dice_loss

NANO = {"model_name": "attention_unet", "in_chans": 2, "dims": (4, 8, 8)}
NANO_3D = {"model_name": "attention_unet_3d", "in_chans": 1, "dims": (4, 8, 8)}


class Local(nn.Module):
    """Logits of single pixels, so that windows do not show."""

    def __init__(self, in_chans: int, num_classes: int, spatial_dims: int = 2) -> None:
        super().__init__()
        self.conv = (nn.Conv2d if spatial_dims == 2 else nn.Conv3d)(in_chans, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def build(network=NANO, **options) -> MedicalSegmentation:
    torch.manual_seed(0)
    return MedicalSegmentation(network, **options)


def draw_batch(*sides: int, channels: int = 2, images: int = 2, classes: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(images, channels, *sides, generator=generator)
    labels = torch.randint(classes, (images, *sides), dtype=torch.uint8, generator=generator)
    labels[:, 0] = 255
    return inputs, labels


@pytest.mark.parametrize(
    ("network", "sides", "num_classes"),
    [(NANO, (17, 20), 1), (NANO, (16, 16), 3), (NANO_3D, (8, 12, 9), 4), (NANO_3D, (8, 8, 8), 1)],
)
def test_modes_agree_with_each_other(network, sides, num_classes):
    model = build(network, num_classes=num_classes).eval()
    inputs, labels = draw_batch(*sides, channels=network["in_chans"], classes=max(num_classes, 2))
    logits = model(inputs)
    assert logits.shape == (2, num_classes, *sides) and model.num_classes == max(num_classes, 2)
    losses = model(inputs, labels, mode="loss")
    assert losses.keys() == {"loss_dice", "loss_cross_entropy"}
    torch.testing.assert_close(losses["loss_dice"], soft_dice_loss(logits, labels, 255))
    torch.testing.assert_close(losses["loss_cross_entropy"], cross_entropy_loss(logits, labels, 255))
    spacings = [(1.0, 2.0, 3.0)] * 2
    first, second = model(inputs, labels, names=["a", "b"], spacings=spacings, mode="predict")
    expected = logits.argmax(1) if num_classes > 1 else (logits[:, 0].sigmoid() > 0.5)
    assert torch.equal(torch.stack([first["label_map"], second["label_map"]]), expected.byte())
    assert (second["name"], second["spacing"], second["ignore_index"]) == ("b", (1.0, 2.0, 3.0), 255)
    assert torch.equal(second["labels"], labels[1])


def test_losses_have_their_weights():
    inputs, labels = draw_batch(16, 16)
    one = build().eval()(inputs, labels, mode="loss")
    weighted = build(losses={"dice": 0.5, "published_dice": 2.0}).eval()(inputs, labels, mode="loss")
    torch.testing.assert_close(weighted["loss_dice"], 0.5 * one["loss_dice"])
    assert weighted.keys() == {"loss_dice", "loss_published_dice"}


def test_windows_reach_the_predictions_of_images_of_any_size():
    network = {"type": Local, "in_chans": 2, "num_classes": 3}
    images = [torch.randn(2, *size, generator=torch.Generator().manual_seed(1)) for size in ((30, 21), (3, 50), (1, 1))]
    whole = build(network, num_classes=3)(images, mode="predict")
    parts = build(network, num_classes=3, inference={"size": (8, 8), "batch_size": 4})(images, mode="predict")
    for one, other, image in zip(whole, parts, images, strict=True):
        assert one["label_map"].shape == image.shape[1:] and one.keys() == {"label_map"}
        assert torch.equal(one["label_map"], other["label_map"])


def test_bytes_become_numbers_between_minus_one_and_one():
    model = build({"type": Local, "in_chans": 3, "num_classes": 1})
    images = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    torch.testing.assert_close(model(images), model(images.double().div(255).mul(2).sub(1).float()))


@pytest.mark.parametrize("network", [NANO, NANO_3D], ids=["2d", "3d"])
def test_every_parameter_learns(network):
    # Several processes would wait for the gradient of one that does not.
    model = build(network, num_classes=2)
    sides = (16,) * (3 if network is NANO_3D else 2)
    inputs, labels = draw_batch(*sides, channels=network["in_chans"])
    sum(model(inputs, labels, mode="loss").values()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_gates_are_resized_blended_and_in_order():
    model = build(num_classes=1, inference={"size": (16, 16)}).eval()
    image = draw_batch(16, 16)[0][0]
    label_map, gates = model.attend(image)
    _, maps = model.network(image[None], return_attention=True)
    assert gates.shape == (2, 16, 16) and label_map.shape == (16, 16)
    # The coarsest first; the finest has the size of the image.
    torch.testing.assert_close(gates[1], maps[1][0, 0])
    torch.testing.assert_close(gates[0], F.interpolate(maps[0], size=(16, 16), mode="bilinear")[0, 0])
    large = draw_batch(40, 30)[0][0]
    label_map, gates = model.attend(large)
    assert gates.shape == (2, 40, 30) and 0 <= gates.min() <= gates.max() <= 1
    assert torch.equal(label_map, model(large[None], mode="predict")[0]["label_map"])
    volume = draw_batch(8, 8, 8, channels=1)[0][0]
    assert build(NANO_3D, num_classes=2).eval().attend(volume)[1].shape == (1, 8, 8, 8)


def test_without_gates_there_is_nothing_to_look_at():
    image = draw_batch(16, 16)[0][0]
    with pytest.raises(ValueError, match="AttentionUnet was built without attention gates"):
        build({**NANO, "gated": False}).eval().attend(image)
    with pytest.raises(ValueError, match="Local gives no attention maps"):
        build({"type": Local, "in_chans": 2, "num_classes": 1}).attend(image)


def test_pictures_of_images_and_of_the_middle_of_volumes():
    model = build(num_classes=3)
    inputs, labels = draw_batch(10, 14, channels=3, classes=3)
    prediction = {"label_map": torch.zeros(10, 14, dtype=torch.uint8), "labels": labels[0], "ignore_index": 255}
    picture = model.draw(inputs[0], prediction, ["background", "liver", "spleen"])
    assert picture.mode == "RGB" and picture.width == 3 * 14
    # Nothing is drawn over the background.
    assert picture.crop((28, 0, 42, 10)).tobytes() == picture.crop((0, 0, 14, 10)).tobytes()
    assert picture.crop((14, 0, 28, 10)).tobytes() != picture.crop((0, 0, 14, 10)).tobytes()
    volume = torch.zeros(1, 10, 14, 6)
    volume[..., 3] = torch.linspace(0, 1, 140).view(10, 14)
    picture = model.draw(volume[0][None], {"label_map": torch.zeros(10, 14, 6, dtype=torch.uint8)})
    assert picture.crop((0, 0, 14, 10)).tobytes()[::3] == bytes((volume[0, ..., 3] * 255).round().byte().flatten())
    bytes_image = torch.randint(256, (3, 10, 14), dtype=torch.uint8)
    picture = model.draw(bytes_image, {"label_map": torch.zeros(10, 14, dtype=torch.uint8)})
    assert picture.crop((0, 0, 14, 10)).tobytes() == bytes_image.permute(1, 2, 0).numpy().tobytes()


def test_compiling_keeps_names_and_weight_decay_is_known():
    model = build()
    names = list(model.state_dict())
    model.compile_backbone(backend="eager")
    assert model.network._compiled_call_impl is not None and list(model.state_dict()) == names
    assert all(name.startswith("network.") for name in names)
    groups = ParamGroups({"optimizer": {"type": torch.optim.SGD, "lr": 1.0, "weight_decay": 0.1}})(model).param_groups
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}


def test_a_network_of_another_library():
    smp = pytest.importorskip("segmentation_models_pytorch")
    network = {"type": smp.Unet, "encoder_name": "tu-test_resnet", "encoder_weights": None, "classes": 1}
    model = build(network, inference={"size": (64, 64)}).eval()
    inputs, labels = draw_batch(64, 64, channels=3)
    assert torch.isfinite(sum(model(inputs, labels, mode="loss").values()))
    # Sides that its encoder cannot halve five times.
    [prediction] = model([torch.randn(3, 70, 50)], mode="predict")
    assert prediction["label_map"].shape == (70, 50)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"network": {"model_name": "attention_unett"}}, ValueError, "unknown model 'attention_unett'; did you mean"),
        ({"network": {"dims": (8, 16)}}, TypeError, "a network needs model_name=... of timm or type="),
        ({"num_classes": 0}, ValueError, r"num_classes must be 1 .* to 255 .*, got 0"),
        ({"ignore_index": 1}, ValueError, r"ignore_index must not be one of the classes 0\.\.1, got 1"),
        (
            {"losses": {"dise": 1.0}},
            ValueError,
            "losses must name some of dice, published_dice, cross_entropy, got dise",
        ),
        ({"losses": {}}, ValueError, "got none"),
        ({"losses": {"dice": -1.0}}, ValueError, "losses must not have negative weights"),
        ({"inference": {"size": (0, 8)}}, ValueError, "at least one pixel"),
        (
            {"network": {"type": Local, "in_chans": 1, "num_classes": 1}, "grad_checkpointing": True},
            ValueError,
            "Local",
        ),
    ],
)
def test_bad_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        MedicalSegmentation(**{"network": NANO, **options})


def test_bad_calls_are_named():
    model = build()
    inputs, labels = draw_batch(16, 16)
    with pytest.raises(ValueError, match="got 'train'"):
        model(inputs, mode="train")
    with pytest.raises(ValueError, match="needs labels"):
        model(inputs, mode="loss")
    with pytest.raises(ValueError, match=r"labels \(2, 8, 16\) do not fit images \(2, 2, 16, 16\)"):
        model(inputs, labels[:, :8], mode="loss")
    with pytest.raises(ValueError, match="images of one batch differ in shape"):
        model([inputs[0], inputs[1, :, :8]], list(labels), mode="loss")
    with pytest.raises(ValueError, match=r"the network is for images \[B, C, H, W\], got \(1, 2, 8, 8, 8\)"):
        model(torch.zeros(1, 2, 8, 8, 8))
    with pytest.raises(ValueError, match=r"the network is for volumes \[B, C, X, Y, Z\], got \(2, 2, 16, 16\)"):
        build(NANO_3D)(inputs)
    with pytest.raises(ValueError, match=r"the network is for 2 channels, got images \(1, 3, 16, 16\)"):
        model(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"Local made \(2, 3, 16, 16\) of \(2, 2, 16, 16\); with num_classes=1"):
        build({"type": Local, "in_chans": 2, "num_classes": 3})(inputs)
