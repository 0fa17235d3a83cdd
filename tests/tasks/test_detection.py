import numpy as np
import pytest
import torch

from gatedvision.tasks import Detection

HORNET = {"model_name": "hornet_tiny_7x7", "dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1)}
VIG = {"model_name": "vig_t", "dim": 32, "depth": 4, "num_heads": 2}
PROPOSALS = {
    "rpn_post_nms_top_n_train": 20,
    "rpn_post_nms_top_n_test": 10,
    "box_batch_size_per_image": 8,
    "box_detections_per_img": 4,
    "box_score_thresh": 0.0,
}
DENSE = {"detections_per_img": 4, "score_thresh": 0.0}


def make(detector: str = "faster_rcnn", backbone=None, **options) -> Detection:
    torch.manual_seed(0)
    tame = PROPOSALS if "rcnn" in detector else DENSE
    arguments = {"num_classes": 3, "min_size": 64, "max_size": 96, "channels": 32, "detector_options": tame}
    return Detection(backbone or HORNET, detector=detector, **{**arguments, **options})


def batch(with_masks: bool = True) -> dict:
    """Two images of different size, the second without objects."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator) for size in ((40, 50), (60, 33))]
    masks = torch.zeros(2, 40, 50, dtype=torch.uint8)
    masks[0, 4:20, 5:30] = 1
    masks[1, 10:40, 20:50] = 1
    targets = [
        {"boxes": torch.tensor([[5.0, 4, 30, 20], [20, 10, 50, 40]]), "labels": torch.tensor([0, 2]), "image_id": 11},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "image_id": 12},
    ]
    if with_masks:
        targets[0]["masks"] = masks
        targets[1]["masks"] = torch.zeros(0, 60, 33, dtype=torch.uint8)
    return {"inputs": inputs, "targets": targets}


def test_losses_of_a_backbone_that_has_them():
    backbone = {"model_name": "msvit_tiny", "embed_dim": 32, "depth": 4, "num_heads": 2, "img_size": 64}
    backbone["gate_loss"] = {"target": 0.5, "kind": "batch_shaping"}
    model = make("fcos", backbone, neck="simple")
    losses = model(**batch(False), mode="loss")
    expected = model.backbone.auxiliary_losses()["auxiliary"]
    torch.testing.assert_close(losses["loss_backbone"], expected)


@pytest.mark.parametrize("detector", ["mask_rcnn", "faster_rcnn", "retinanet", "fcos"])
@pytest.mark.parametrize(("backbone", "neck"), [(HORNET, "fpn"), (HORNET, "hor_fpn"), (VIG, "simple")])
def test_training_and_prediction(detector, backbone, neck):
    model = make(detector, backbone, neck=neck)
    losses = model(**batch(detector == "mask_rcnn"), mode="loss")
    assert all(name.startswith("loss_") and loss.isfinite() for name, loss in losses.items())
    assert ("loss_mask" in losses) == (detector == "mask_rcnn")
    sum(losses.values()).backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert not without and all(weight.grad.isfinite().all() for weight in model.parameters())

    # torchvision's dense detectors score nothing above their threshold before they are trained.
    model.eval()
    with torch.no_grad():
        predictions = model(**batch(False), mode="predict")
    assert [prediction["image_id"] for prediction in predictions] == [11, 12]
    for prediction, (height, width) in zip(predictions, ((40, 50), (60, 33)), strict=True):
        boxes, labels = prediction["boxes"], prediction["labels"]
        assert 0 < len(boxes) <= 4 and boxes.shape[1] == 4
        assert boxes.min() >= 0 and (boxes.amax(0) <= torch.tensor([width, height, width, height]) + 1e-3).all()
        assert labels.min() >= 0 and labels.max() <= 2
        assert (prediction["scores"].diff() <= 0).all()
        if detector == "mask_rcnn":
            assert prediction["masks"].shape == (len(boxes), height, width) and prediction["masks"].dtype == torch.bool


@pytest.mark.parametrize("detector", ["mask_rcnn", "retinanet", "fcos"])
def test_a_batch_without_objects_reaches_every_parameter(detector):
    """Processes that average their gradients would wait for the missing ones."""
    model = make(detector)
    data = batch(detector == "mask_rcnn")
    data = {name: [values[1], values[1]] for name, values in data.items()}
    losses = model(**data, mode="loss")
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("detector", ["faster_rcnn", "retinanet"])
def test_labels_are_learnt_and_told_from_0(detector):
    """The label that goes in comes out: a model that has seen one class only gives that one the best score."""
    model = make(detector, min_size=32, max_size=64)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    data = batch(False)
    data["targets"][0]["labels"] = torch.tensor([2, 2])
    for _ in range(12):
        optimizer.zero_grad()
        sum(model(**data, mode="loss").values()).backward()
        optimizer.step()
    with torch.no_grad():
        prediction = model.eval()(**data, mode="predict")[0]
    assert prediction["labels"][0] == 2
    # Nothing of the targets has been changed.
    assert data["targets"][0]["labels"].tolist() == [2, 2]


def test_strides_of_the_pyramid():
    images = [torch.rand(3, 64, 96)]
    for detector, neck, backbone, strides in (
        ("faster_rcnn", "fpn", HORNET, (4, 8, 16, 32, 64)),
        ("fcos", "fpn", HORNET, (8, 16, 32, 64, 128)),
        ("faster_rcnn", "simple", VIG, (4, 8, 16, 32, 64)),
        ("retinanet", "simple", VIG, (8, 16, 32, 64, 128)),
    ):
        levels = make(detector, backbone, neck=neck).eval()(images)
        assert [tuple(level.shape) for level in levels] == [
            (1, 32, -(-64 // stride), -(-96 // stride)) for stride in strides
        ]


def test_coarse_levels_of_retinanet_come_from_the_backbone():
    # As wide as the pyramid, which torchvision would take for the other kind.
    images = [torch.rand(3, 64, 64)]
    for detector, starts_at_map in (("retinanet", True), ("fcos", False)):
        pyramid = make(detector, {**HORNET, "dims": (8, 16, 24, 32)}).eval().detector.backbone
        seen = []
        pyramid.neck.register_forward_hook(lambda _, args, levels, seen=seen: seen.extend([args[0][-1], levels[-1]]))
        levels = list(pyramid(torch.stack(images)).values())
        source = seen[0] if starts_at_map else seen[1]
        torch.testing.assert_close(levels[3], pyramid.extra.p6(source))


def test_bytes_and_numbers_are_the_same_image_normalised_as_the_backbone_wants():
    overlay = {"pretrained_cfg_overlay": {"mean": (0.5, 0.4, 0.3)}}
    model = make(backbone={**HORNET, **overlay}).eval()
    assert model.detector.transform.image_mean == [0.5, 0.4, 0.3]
    pixels = batch()["inputs"][:1]
    for one, other in zip(model(pixels), model([pixels[0] / 255]), strict=True):
        torch.testing.assert_close(one, other)


def test_maps_are_normalised_on_demand():
    seen = {}
    for norm_maps in (False, True):
        model = make(norm_maps=norm_maps).eval()
        model.detector.backbone.neck.register_forward_pre_hook(lambda _, args: seen.update(maps=args[0]))
        model(batch()["inputs"])
        means = torch.stack([x.mean(dim=1).abs().max() for x in seen["maps"]])
        assert (means.max() < 1e-5) == norm_maps


def test_predictions_leave_autocast():
    model = make().train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(**batch(False), mode="loss")
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    seen = []
    model.eval().detector.rpn.register_forward_hook(lambda _, args, out: seen.extend(out[0]))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(**batch(False), mode="predict")
    # A side of 64 pixels in bfloat16 would be a multiple of half a pixel.
    assert all(boxes.dtype == torch.float32 and (boxes != boxes.bfloat16()).any() for boxes in seen)


def test_checkpointing_changes_memory_only():
    results = []
    for grad_checkpointing in (False, True):
        model = make(grad_checkpointing=grad_checkpointing)
        torch.manual_seed(1)
        sum(model(**batch(False), mode="loss").values()).backward()
        results.append([parameter.grad for parameter in model.parameters()])
        assert all(stage.grad_checkpointing == grad_checkpointing for stage in model.backbone.stages)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_layers_and_exemptions_have_the_names_of_the_task():
    model = make(backbone=VIG, neck="simple")
    names = dict(model.named_parameters())
    assert model.backbone.group_matcher()
    assert all(name in names or "*" in name for name in model.no_weight_decay())
    assert {id(weight) for weight in model.backbone.parameters()} <= {id(weight) for weight in names.values()}


def test_compiling_is_left_to_the_backbone(monkeypatch):
    model = make()
    names, calls = list(model.state_dict()), []
    monkeypatch.setattr(model.detector.backbone.body, "compile", lambda **options: calls.append(options))
    model.compile_backbone(dynamic=True)
    assert calls == [{"dynamic": True}] and list(model.state_dict()) == names


def test_weights_survive_the_initialisation_of_mmengine():
    model = make()
    kept = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.init_weights()
    assert all(torch.equal(weight, kept[name]) for name, weight in model.state_dict().items())


def test_pictures_show_boxes_names_and_masks():
    model = make()
    image = torch.zeros(3, 40, 50, dtype=torch.uint8)
    masks = torch.zeros(3, 40, 50, dtype=torch.bool)
    masks[0, 25:30, 25:30] = True
    masks[2, 35:, 45:] = True
    prediction = {
        "boxes": torch.tensor([[20.0, 20, 40, 35], [1, 1, 9, 9], [40, 30, 49, 39]]),
        "scores": torch.tensor([0.9, 0.8, 0.1]),
        "labels": torch.tensor([0, 1, 2]),
        "masks": masks,
    }
    drawn = np.asarray(model.draw(image, prediction, ["a", "b", "c"]))
    assert drawn.shape == (40, 50, 3)
    frame = drawn[20, 30]
    assert frame.max() > 200 and (drawn[27, 27] > 0).any() and not drawn[36:, 46:].any(), "below the score"
    assert not np.array_equal(drawn[5, 1], frame), "classes have colours of their own"
    empty = {name: value[:0] for name, value in prediction.items()}
    assert not np.asarray(model.draw(image / 255, empty)).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"detector": "yolo"}, "detector must be one of mask_rcnn, .* got 'yolo'"),
        ({"neck": "bifpn"}, "neck must be one of fpn, hor_fpn, simple, got 'bifpn'"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"min_size": 128}, "no larger than max_size, got 128 and 96"),
        ({"min_size": ()}, "min_size must be positive"),
        ({"backbone": VIG}, r'maps of strides \[16, 16, 16, 16\], and \'fpn\' needs .*neck="simple" is for'),
        ({"backbone": {"model_name": "vig_tt"}}, "unknown model 'vig_tt'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_options_that_torchvision_would_swallow_are_refused():
    with pytest.raises(TypeError, match="FasterRCNN has no option box_score_treshold"):
        make(detector_options={"box_score_treshold": 0.1})
    with pytest.raises(TypeError, match="depht"):
        make(backbone={**HORNET, "depht": 1})


def test_bad_calls_are_named():
    model = make("mask_rcnn")
    with pytest.raises(ValueError, match="got 'train'"):
        model(**batch(), mode="train")
    with pytest.raises(ValueError, match="needs targets"):
        model(batch()["inputs"], mode="loss")
    with pytest.raises(ValueError, match="with_masks=True"):
        model(**batch(with_masks=False), mode="loss")
    with pytest.raises(ValueError, match="training mode"):
        model.eval()(**batch(), mode="loss")
    with pytest.raises(ValueError, match="evaluation mode"):
        model.train()(**batch(), mode="predict")
    with pytest.raises(ValueError, match="an image of 200x2 pixels has no short side left at max_size=96"):
        model([torch.rand(3, 2, 200)])


def test_images_of_one_pixel_and_of_one_row():
    model = make().eval()
    with torch.no_grad():
        predictions = model([torch.rand(3, 1, 1), torch.rand(3, 1, 90)], mode="predict")
    assert [prediction["boxes"].shape[1] for prediction in predictions] == [4, 4]
