import pytest
import timm
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import nn

import gatedvision.tasks.segmentation
from gatedvision.engine import ParamGroups
from gatedvision.heads import FCNHead, FPNHead, LinearHead, UPerHead
from gatedvision.tasks import Classification, Segmentation

HORNET = {"model_name": "hornet_tiny_7x7", "dims": (8, 16, 32, 64), "depths": (1, 1, 1, 1)}
PLAIN = {"model_name": "vig_t", "dim": 32, "depth": 4, "num_heads": 2}
MIXED_SCALE = {
    "model_name": "msvit_tiny",
    "img_size": 64,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "gate_loss": {"target": 0.3},
}


def build(backbone=HORNET, head=UPerHead, **options) -> Segmentation:
    torch.manual_seed(0)
    options = {"auxiliary_head": {"type": FCNHead, "dim": 8}, **options}
    width = {} if head is LinearHead else {"dim": 8}
    return Segmentation(backbone, 5, {"type": head, **width}, **options)


def draw_batch(*sizes: tuple[int, int]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]
    labels = [torch.randint(5, size, dtype=torch.uint8, generator=generator) for size in sizes]
    for each in labels:
        each[0] = 255
    return images, labels


def test_modes_agree_with_each_other():
    model = build().eval()
    images, labels = draw_batch((64, 96), (64, 96))
    logits = model(torch.stack(images))
    assert logits.shape == (2, 5, 64, 96)
    predictions = model(images, labels, names=["a", "b"], mode="predict")
    assert [prediction["name"] for prediction in predictions] == ["a", "b"]
    torch.testing.assert_close(predictions[1]["label_map"], logits[1].argmax(0))
    losses = model(torch.stack(images), torch.stack(labels), mode="loss")
    expected = F.cross_entropy(logits, torch.stack(labels).long(), ignore_index=255)
    torch.testing.assert_close(losses["loss_head"], expected)
    pixels = sum((each != 255).sum() for each in labels)
    torch.testing.assert_close(sum(prediction["loss"] for prediction in predictions) / pixels, expected)
    # Lists of one size are a batch.
    torch.testing.assert_close(model(images, labels, mode="loss"), losses)


def test_the_auxiliary_loss_has_its_weight():
    images, labels = (torch.stack(tensors) for tensors in draw_batch((64, 64), (64, 64)))
    whole = build(auxiliary_weight=1.0).eval()(images, labels, mode="loss")
    part = build().eval()(images, labels, mode="loss")
    torch.testing.assert_close(part["loss_auxiliary"], 0.4 * whole["loss_auxiliary"])
    assert build(auxiliary_head=None).eval()(images, labels, mode="loss").keys() == {"loss_head"}


def test_a_batch_without_labels_has_a_loss_of_zero():
    model = build()
    images = torch.stack(draw_batch((64, 64), (64, 64))[0])
    losses = model(images, torch.full((2, 64, 64), 255), mode="loss")
    sum(losses.values()).backward()
    assert sum(losses.values()) == 0
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_bytes_are_normalised_as_the_backbone_wants_them():
    model = build({**HORNET, "pretrained_cfg_overlay": {"mean": (0.5, 0.4, 0.3)}}).eval()
    images = torch.stack(draw_batch((64, 64))[0])
    mean, std = (torch.tensor(model.features.pretrained_cfg[name])[:, None, None] for name in ("mean", "std"))
    assert mean[1] == 0.4
    torch.testing.assert_close(model(images), model((images / 255 - mean) / std))
    assert not {"mean", "std"} & model.state_dict().keys()


@pytest.mark.parametrize("backbone", [HORNET, PLAIN], ids=["pyramid", "plain"])
def test_images_of_any_size_down_to_one_pixel(backbone):
    model = build(backbone, auxiliary_head=None).eval()
    sizes = [(1, 1), (3, 50), (45, 33)]
    images, labels = draw_batch(*sizes)
    for prediction, size in zip(model(images, labels, mode="predict"), sizes, strict=True):
        assert prediction["label_map"].shape == prediction["labels"].shape == size
        assert torch.isfinite(prediction["loss"])


def test_images_are_padded_by_the_mean_to_whole_pixels_of_the_coarsest_map():
    model = build(auxiliary_head=None).eval()
    image = torch.randn(1, 3, 50, 40, generator=torch.Generator().manual_seed(0))
    padded = F.pad(image, (0, 24, 0, 14))
    torch.testing.assert_close(model(image), model(padded)[..., :50, :40])


def test_windows_and_views_reach_the_predictions():
    images, labels = draw_batch((70, 90))
    whole = None
    for inference in ({}, {"crop": 32, "stride": 20}, {"short_side": 48}, {"scales": (0.5, 1.0), "flip": True}):
        model = build(inference=inference).eval()
        # Without a bias no class wins everywhere.
        model.head.classifier.bias.data.zero_()
        [prediction] = model(images, labels, mode="predict")
        whole = whole or prediction
        assert prediction["label_map"].shape == (70, 90)
        assert torch.equal(prediction["label_map"], whole["label_map"]) == (not inference)
        assert ("loss" in prediction) == ("flip" not in inference)


def test_plain_backbones_get_a_pyramid_and_others_their_maps():
    plain = build(PLAIN, FPNHead)
    maps = plain.pyramid(plain.features(torch.rand(1, 3, 64, 64)))
    assert [tuple(x.shape[1:]) for x in maps] == [(256, 16, 16), (256, 8, 8), (256, 4, 4), (256, 2, 2)]
    staged = build(norm_maps=True)
    maps = staged._maps(torch.rand(1, 3, 64, 64))
    assert [tuple(x.shape[1:]) for x in maps] == [(8, 16, 16), (16, 8, 8), (32, 4, 4), (64, 2, 2)]
    torch.testing.assert_close(maps[1].mean(1), torch.zeros(1, 8, 8), rtol=0, atol=1e-5)


def test_plain_maps_as_they_are_for_a_linear_head():
    backbone = {**PLAIN, "out_indices": 1}
    model = Segmentation(backbone, 5, {"type": LinearHead}, norm_maps=True, pyramid_dim=None).eval()
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    [features] = model.features(image)
    logits = model.head.classifier(model.norms[0](features))
    assert logits.shape == (1, 5, 4, 4)
    torch.testing.assert_close(model(image), F.interpolate(logits, (64, 64), mode="bilinear"))


def test_losses_and_costs_of_a_backbone_that_has_them():
    torch.manual_seed(0)
    images, labels = (torch.stack(tensors) for tensors in draw_batch((64, 64), (64, 64)))
    model = build({**MIXED_SCALE, "out_indices": 1}, LinearHead, auxiliary_head=None, pyramid_dim=None)
    losses = model(images, labels, mode="loss")
    parts = {f"auxiliary/gate_{name}" for name in ("prior", "hyperprior", "temperature")}
    assert losses.keys() == {"loss_head", "loss_backbone"} | parts
    sum(loss for name, loss in losses.items() if name.startswith("loss")).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert model.eval()(images, labels, mode="loss").keys() == {"loss_head"}

    model.backbone.set_choice("random", 0.25)
    [prediction] = model(list(images[:1]), mode="predict")
    costs = prediction["costs"]
    assert costs["fine_share"].tolist() == [0.25] and 0 < costs["GMACs"] < 1
    # Four windows of a quarter of the regions, one of the 2 x 2 fine.
    model.backbone.set_choice("centre", 0.25)
    images = list(torch.cat([images, images], 3).repeat(1, 1, 2, 1)[:1, :, :128, :128])
    model.inference.crop = model.inference.stride = 64
    [windows] = model(images, mode="predict")
    assert windows["costs"]["fine_share"].tolist() == [0.25]
    torch.testing.assert_close(windows["costs"]["GMACs"], 4 * costs["GMACs"])


@pytest.mark.parametrize("backbone", [HORNET, PLAIN], ids=["pyramid", "plain"])
def test_every_parameter_learns(backbone):
    # Several processes would wait for the gradient of one that does not.
    images, labels = (torch.stack(tensors) for tensors in draw_batch((64, 64), (64, 64)))
    model = build(backbone, norm_maps=True)
    sum(model(images, labels, mode="loss").values()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_any_timm_model_and_gradient_checkpointing():
    images, labels = (torch.stack(tensors) for tensors in draw_batch((64, 64), (64, 64)))
    gradients = []
    for checkpointing in (False, True):
        model = build({"model_name": "test_convnext"}, FPNHead, grad_checkpointing=checkpointing)
        sum(model(images, labels, mode="loss").values()).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    assert model.backbone.stages[0].grad_checkpointing


@pytest.mark.parametrize("backbone", [HORNET, {"model_name": "test_convnext"}], ids=["ours", "timm's"])
def test_weights_of_a_classifier_start_a_segmentation(tmp_path, backbone):
    classifier = Classification({**backbone, "num_classes": 10})
    torch.save({"state_dict": classifier.state_dict(), "meta": {"epoch": 1}}, tmp_path / "epoch_1.pth")
    torch.manual_seed(1)
    overlay = {"file": str(tmp_path / "epoch_1.pth")}
    model = Segmentation({**backbone, "pretrained": True, "pretrained_cfg_overlay": overlay}, 5, {"type": FCNHead})
    for name, weight in model.backbone.state_dict().items():
        assert torch.equal(weight, classifier.backbone.state_dict()[name]), name


def test_weights_survive_the_initialisation_of_mmengine():
    model = build()
    kept = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.init_weights()
    assert all(torch.equal(weight, kept[name]) for name, weight in model.state_dict().items())


def test_compiling_keeps_names():
    model = build()
    names = list(model.state_dict())
    model.compile_backbone(backend="eager")
    # The part that every mode runs through; whether it compiles is for the tests of the models.
    assert model.features._compiled_call_impl is not None
    assert list(model.state_dict()) == names


def test_no_weight_decay_names_parameters_of_the_task():
    model = build({"model_name": "test_vit", "dynamic_img_size": True})
    names = model.no_weight_decay()
    assert "features.model.pos_embed" in names
    groups = ParamGroups({"optimizer": {"type": torch.optim.SGD, "lr": 1.0, "weight_decay": 0.1}})(model).param_groups
    free = {id(parameter) for group in groups if group["weight_decay"] == 0 for parameter in group["params"]}
    assert id(model.backbone.pos_embed) in free


def test_heads_share_batch_statistics_between_gpus(monkeypatch):
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in build().modules())
    monkeypatch.setattr(gatedvision.tasks.segmentation.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model = build()
    assert isinstance(model.head.fusion.bn, nn.SyncBatchNorm)
    assert model.state_dict().keys() == build().state_dict().keys()


def test_pictures_show_image_labels_prediction_and_legend():
    model = build().eval()
    images, labels = draw_batch((40, 60))
    labels[0][:] = 3
    labels[0][:, :30] = 255
    [prediction] = model(images, labels, mode="predict")
    prediction["label_map"] = torch.full((40, 60), 1)
    picture = model.draw(images[0], prediction, ["sky", "road", "car", "tree", "pole"])
    assert picture.mode == "RGB" and picture.size == (180, 40 + 2 * 14)
    pixels = torch.tensor(list(picture.crop((0, 0, 180, 40)).tobytes())).view(40, 180, 3)
    original = images[0].permute(1, 2, 0).long()
    assert torch.equal(pixels[:, :60], original)
    # Unlabelled pixels stay as they are.
    assert torch.equal(pixels[:, 60:90], original[:, :30])
    assert not torch.equal(pixels[:, 90:120], original[:, 30:])
    assert not torch.equal(pixels[:, 120:], original)
    normalised = (images[0] / 255 - model.mean) / model.std
    assert list(model.draw(normalised, prediction).crop((0, 0, 60, 40)).tobytes()) == original.flatten().tolist()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backbone": {"model_name": "vig_tt"}}, ValueError, r"unknown model 'vig_tt'; did you mean .*vig_t"),
        ({"num_classes": 1}, ValueError, "num_classes must be at least 2"),
        ({"ignore_index": 4}, ValueError, r"ignore_index must not be one of the classes 0\.\.4, got 4"),
        ({"head": {"dim": 8}}, TypeError, "a head needs type="),
        ({"head": {"type": UPerHead, "width": 8}}, TypeError, "unexpected keyword argument 'width'"),
        ({"inference": {"crop": -1}}, ValueError, "crop must be at least one pixel"),
    ],
)
def test_bad_options_are_named(options, error, message):
    complete = {"backbone": HORNET, "num_classes": 5, "head": {"type": UPerHead, "dim": 8}, **options}
    with pytest.raises(error, match=message):
        Segmentation(**complete)


def test_bad_calls_are_named():
    model = build()
    images, labels = draw_batch((64, 64), (64, 96))
    with pytest.raises(ValueError, match="got 'train'"):
        model(images, mode="train")
    with pytest.raises(ValueError, match="needs labels"):
        model(images[:1], mode="loss")
    with pytest.raises(ValueError, match=r"images of one batch differ in shape: \[\(3, 64, 64\), \(3, 64, 96\)\]"):
        model(images, labels, mode="loss")
    with pytest.raises(ValueError, match=r"labels \(1, 64, 96\) do not fit images \(1, 3, 64, 64\)"):
        model(images[:1], labels[1:], mode="loss")


def test_a_config_names_heads_by_their_path():
    head = {"type": "gatedvision.heads.UPerHead", "dim": 8}
    model = MODELS.build({"type": Segmentation, "backbone": HORNET, "num_classes": 5, "head": head})
    assert isinstance(model.head, UPerHead)


def test_backbones_are_encoders_of_segmentation_models_pytorch():
    smp = pytest.importorskip("segmentation_models_pytorch")
    for name in ("vig_h_t", "moganet_xtiny"):
        assert timm.is_model(name)
        model = smp.UPerNet(f"tu-{name}", encoder_weights=None, classes=3, decoder_channels=16).eval()
        with torch.inference_mode():
            assert model(torch.rand(1, 3, 64, 96)).shape == (1, 3, 64, 96)
