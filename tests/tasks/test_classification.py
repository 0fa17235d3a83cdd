import numpy as np
import pytest
import timm
import torch
from torch.nn import functional

from gatedvision.tasks import Classification

BACKBONE = {"model_name": "test_vit", "num_classes": 4, "img_size": 32}
MIXUP = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0}


def images(batch_size: int = 4) -> torch.Tensor:
    return torch.randn(batch_size, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_modes_agree_with_each_other():
    model = Classification(BACKBONE).eval()
    labels = torch.tensor([0, 1, 2, 3])
    logits = model(images())
    assert logits.shape == (4, 4)
    [prediction] = model(images(), labels, mode="predict")
    torch.testing.assert_close(prediction["logits"], logits)
    assert prediction["labels"] is labels
    expected = functional.cross_entropy(logits, labels)
    torch.testing.assert_close(model(images(), labels, mode="loss")["loss"], expected)


def test_bytes_are_normalised_as_the_backbone_wants_them():
    model = Classification({**BACKBONE, "model_name": "test_vit", "pretrained_cfg_overlay": {"mean": (0.5, 0.4, 0.3)}})
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(model.backbone.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    assert mean.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3])
    torch.testing.assert_close(model.eval()(pixels), model((pixels / 255 - mean) / std))
    assert not any(name.endswith(("mean", "std")) for name in model.state_dict())


def test_label_smoothing_enters_the_loss():
    model = Classification(BACKBONE, label_smoothing=0.2).eval()
    labels = torch.tensor([0, 1, 2, 3])
    expected = functional.cross_entropy(model(images()), labels, label_smoothing=0.2)
    torch.testing.assert_close(model(images(), labels, mode="loss")["loss"], expected)


def test_mixup_acts_in_training_only_and_leaves_the_batch_alone():
    torch.manual_seed(0)
    model = Classification(BACKBONE, mixup=MIXUP)
    inputs, labels = images(), torch.tensor([0, 1, 2, 3])
    kept = inputs.clone()
    plain = functional.cross_entropy(model.eval()(inputs), labels)
    torch.testing.assert_close(model(inputs, labels, mode="loss")["loss"], plain)
    np.random.seed(0)
    mixed = model.train()(inputs, labels, mode="loss")["loss"]
    assert abs(mixed - plain) > 1e-3
    assert torch.equal(inputs, kept)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_mixup_takes_odd_batches(mode, batch_size):
    model = Classification(BACKBONE, mixup={**MIXUP, "mode": mode}, label_smoothing=0.1).train()
    seen = {}
    model.backbone.register_forward_pre_hook(lambda _, args: seen.update(inputs=args[0]))
    model.soft_loss.register_forward_pre_hook(lambda _, args: seen.update(soft_labels=args[1]))
    inputs = images(batch_size)
    loss = model(inputs, torch.arange(batch_size) % 4, mode="loss")["loss"]
    assert loss.isfinite()
    torch.testing.assert_close(seen["soft_labels"].sum(dim=1), torch.ones(batch_size))
    if batch_size % 2:
        assert torch.equal(seen["inputs"][-1], inputs[-1])
        # 0.9 and a quarter of 0.1 on the right one of 4 classes.
        assert seen["soft_labels"][-1, (batch_size - 1) % 4].item() == pytest.approx(0.925)


def test_mixup_follows_the_generator_that_checkpoints_save():
    model = Classification(BACKBONE, mixup=MIXUP).train()
    losses = []
    for _ in range(2):
        np.random.seed(3)
        torch.manual_seed(3)
        losses.append(model(images(), torch.tensor([0, 1, 2, 3]), mode="loss")["loss"].item())
    assert losses[0] == losses[1]


def test_any_timm_model_and_channels_last():
    model = Classification({"model_name": "test_convnext", "num_classes": 3}, channels_last=True)
    seen = {}
    model.backbone.register_forward_pre_hook(lambda _, args: seen.update(inputs=args[0]))
    assert model(images(2)).shape == (2, 3)
    assert seen["inputs"].is_contiguous(memory_format=torch.channels_last)


def test_weights_survive_the_initialisation_of_mmengine():
    model = Classification(BACKBONE)
    kept = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.init_weights()
    assert all(torch.equal(weight, kept[name]) for name, weight in model.state_dict().items())


def test_compiling_keeps_names_and_results():
    model = Classification(BACKBONE).eval()
    names, expected = list(model.state_dict()), model(images())
    calls = []
    model.compile_backbone(backend=lambda graph, _: calls.append(graph) or graph.forward)
    torch.testing.assert_close(model(images()), expected)
    assert calls, "the backbone was not compiled"
    assert list(model.state_dict()) == names


def test_no_weight_decay_names_parameters_of_the_task():
    model = Classification(BACKBONE)
    names = model.no_weight_decay()
    assert "backbone.pos_embed" in names
    assert {f"backbone.{name}" for name in model.backbone.no_weight_decay()} == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": {"model_name": "vig_tt"}}, r"unknown model 'vig_tt'; did you mean .*vig_t"),
        ({"backbone": {"model_name": "qqqqqqqq"}}, "unknown model 'qqqqqqqq'; timm.list_models"),
        ({"backbone": {**BACKBONE, "num_classes": 0}}, "has no classifier"),
        ({"backbone": BACKBONE, "label_smoothing": 1.5}, r"label_smoothing must lie in \[0, 1\), got 1.5"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Classification(**options)


def test_bad_calls_are_named():
    model = Classification(BACKBONE)
    with pytest.raises(ValueError, match="got 'train'"):
        model(images(), mode="train")
    with pytest.raises(ValueError, match="needs labels"):
        model(images(), mode="loss")
    with pytest.raises(TypeError, match="num_clases"):
        Classification({**BACKBONE, "num_clases": 4})


def test_our_names_are_registered_by_importing_the_task():
    assert timm.is_model("vig_t")
