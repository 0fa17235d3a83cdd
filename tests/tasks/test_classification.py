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


def test_sigmoids_judge_each_class_by_itself():
    model, labels = Classification(BACKBONE, sigmoid=True).eval(), torch.tensor([0, 1, 2, 3])
    logits = model(images())
    by_class = -functional.logsigmoid(torch.where(torch.eye(4) == 1, logits, -logits))
    torch.testing.assert_close(model(images(), labels, mode="loss")["loss"], by_class.sum(1).mean())
    # Soft labels of mixed images, too.
    model = Classification(BACKBONE, mixup=MIXUP, sigmoid=True).train()
    loss = model(images(), labels, mode="loss")["loss"]
    assert loss > 1.5 * functional.cross_entropy(logits, labels)


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


EXPERTS = {
    "model_name": "vmoe_s32_last2_e8",
    "img_size": 32,
    "patch_size": 16,
    "embed_dim": 16,
    "depth": 3,
    "num_heads": 2,
    "representation_size": 0,
    "expert_blocks": (1, 2),
    "num_experts": 6,
    "num_classes": 4,
}


def build_experts(mixup: dict | None = None, **options: object) -> Classification:
    torch.manual_seed(0)
    model = Classification({**EXPERTS, **options}, mixup=mixup)
    # The classifier starts at zero.
    torch.nn.init.normal_(model.backbone.head.weight)
    return model


def test_auxiliary_losses_are_added_once_and_logged():
    model, labels = build_experts(gshard_weight=0.01).train(), torch.tensor([0, 1, 2, 3])
    logits = []
    model.backbone.register_forward_hook(lambda _, args, output: logits.append(output))
    losses = model(images(), labels, mode="loss")
    found = model.backbone.auxiliary_losses()
    assert found.keys() == {"importance", "load", "gshard", "auxiliary"}
    expected = 0.005 * found["importance"] + 0.005 * found["load"] + 0.01 * found["gshard"]
    torch.testing.assert_close(losses["auxiliary"], expected)
    torch.testing.assert_close(losses["cross_entropy"], functional.cross_entropy(logits[0], labels))
    # What mmengine minimises, and what it logs.
    minimised, logged = model.parse_losses(losses)
    torch.testing.assert_close(minimised, losses["cross_entropy"] + expected)
    assert logged["loss"] == minimised
    parts = {f"auxiliary/{name}" for name in ("importance", "load", "gshard")}
    assert logged.keys() == {"loss", "cross_entropy", "auxiliary"} | parts
    assert all(logged[f"auxiliary/{name}"] == found[name] for name in ("importance", "load", "gshard"))
    minimised.backward()
    assert model.backbone.blocks[1].mlp.router.weight.grad.abs().max() > 0


def test_auxiliary_losses_are_of_training_and_of_what_is_to_be_balanced():
    labels = torch.tensor([0, 1, 2, 3])
    model = build_experts()
    model.train()(images(), labels, mode="loss")
    model.backbone.keep_routing()
    assert model.eval()(images(), labels, mode="loss").keys() == {"loss"}
    model = build_experts(routing="expert_choice")
    assert model.train()(images(), labels, mode="loss").keys() == {"loss"}


def test_members_of_an_ensemble_learn_alike_and_predict_together():
    model = build_experts(num_members=2, num_selected=1, noise_std=0.0).eval()
    labels = torch.tensor([0, 1, 2, 3])
    rows = model.backbone(images())
    members = rows.view(4, 2, 4)
    assert (members[:, 0] - members[:, 1]).abs().max() > 1e-3
    expected = sum(functional.cross_entropy(members[:, member], labels) for member in range(2)) / 2
    torch.testing.assert_close(model(images(), labels, mode="loss")["loss"], expected)
    [prediction] = model(images(), labels, mode="predict")
    mean = members.softmax(-1).mean(1)
    torch.testing.assert_close(prediction["logits"].softmax(-1), mean)
    torch.testing.assert_close(model(images()).softmax(-1), mean)
    losses = model.train()(images(), labels, mode="loss")
    torch.testing.assert_close(losses["loss"], losses["cross_entropy"] + losses["auxiliary"])


def test_members_of_an_ensemble_see_one_mixture():
    model = build_experts(MIXUP, num_members=2, num_selected=1).train()
    seen = {}
    model.backbone.register_forward_hook(lambda _, args, output: seen.update(inputs=args[0], logits=output))
    model.soft_loss.register_forward_pre_hook(lambda _, args: seen.update(soft_labels=args[1]))
    assert model(images(5), torch.arange(5) % 4, mode="loss")["loss"].isfinite()
    assert seen["inputs"].shape[0] == 5 and seen["logits"].shape == seen["soft_labels"].shape == (10, 4)
    assert torch.equal(seen["soft_labels"][0::2], seen["soft_labels"][1::2])
    torch.testing.assert_close(seen["soft_labels"].sum(1), torch.ones(10))


def test_logits_keep_double_precision():
    model = Classification(BACKBONE).double().eval()
    [prediction] = model(images().double(), mode="predict")
    assert prediction["logits"].dtype == torch.float64
    [prediction] = model.to(torch.bfloat16)(images().bfloat16(), mode="predict")
    assert prediction["logits"].dtype == torch.float32


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
