"""What the recipes of MSViT promise beside what holds for every config: where they start, and who learns how fast."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from gatedvision.engine import ParamGroups
from gatedvision.engine.launch import load_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "msvit"
SMALL = {f"model.backbone.{name}": value for name, value in {"embed_dim": 16, "depth": 2, "num_heads": 2}.items()}


def small(name: str, **options: Any) -> Config:
    return load_config(CONFIGS / f"{name}.py", cfg_options={**SMALL, **options})


def test_the_gate_is_put_on_a_backbone_that_was_trained_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = MODELS.build(small("vit_small_imagenette").model)
    config = small("msvit_small_imagenette")
    path = Path(config.model.backbone.pretrained_cfg_overlay.file)
    path.parent.mkdir(parents=True)
    torch.save({"state_dict": plain.state_dict(), "meta": {"epoch": 100, "iter": 1}}, path)
    torch.manual_seed(1)
    tuned = MODELS.build(config.model).eval()
    weights = tuned.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in plain.state_dict().items())
    assert {name.split(".")[1] for name in weights.keys() - plain.state_dict().keys()} == {"gate"}
    # With fine regions everywhere it is the network it was, and so it is costed.
    tuned.backbone.set_choice("fine")
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(tuned(images), plain.eval()(images), rtol=1e-4, atol=1e-5)
    assert tuned.backbone.image_costs()["fine_share"].tolist() == [1.0, 1.0]
    # What the gate's loss learned belongs to its target, and is not taken over.
    priors = {"model.backbone.gate_loss.kind": "generalized"}
    shaped = MODELS.build(small("msvit_small_imagenette", **priors).model)
    assert any(".gate_loss." in name for name in shaped.state_dict())
    torch.save({"state_dict": shaped.state_dict(), "meta": {"epoch": 100, "iter": 1}}, path)
    other = MODELS.build(small("msvit_small_imagenette", **priors, **{"model.backbone.gate_loss.target": 0.1}).model)
    torch.testing.assert_close(other.backbone.gate.pos_embed, shaped.backbone.gate.pos_embed)
    mean = other.backbone.gate_loss.shaping.mean_logit.sigmoid().detach()
    torch.testing.assert_close(mean, torch.full((49,), 0.9), rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("name", "times"), [("msvit_small_imagenet", 10), ("msvit_small_imagenette", 5), ("msvit_small_upernet_ade20k", 10)]
)
def test_the_gate_learns_faster_and_its_positions_and_priors_do_not_decay(name, times):
    options = {"model.backbone.depth": 4} if "ade20k" in name else {}
    config = small(name, **{"model.backbone.pretrained": False, **options})
    model = MODELS.build(config.model)
    wrapper = ParamGroups({"optimizer": config.optim_wrapper.optimizer}, config.optim_wrapper.paramwise_cfg)(model)
    settings = {id(p): (group["lr"], group["weight_decay"]) for group in wrapper.param_groups for p in group["params"]}
    prefix = "features.model" if "ade20k" in name else "backbone"
    rate, decay = config.optim_wrapper.optimizer.lr, config.optim_wrapper.optimizer.weight_decay
    for part, parameter in model.named_parameters():
        gate = part.startswith((f"{prefix}.gate.", f"{prefix}.gate_loss."))
        free = parameter.ndim == 1 or part.endswith(("pos_embed", "cls_token"))
        assert settings[id(parameter)] == (pytest.approx(times * rate if gate else rate), 0.0 if free else decay), part


@pytest.mark.parametrize("kind", ["generalized", "batch_shaping", "mean_rate", "gain"])
def test_every_loss_of_the_gate_trains_through_the_same_path(kind):
    torch.manual_seed(0)
    options = {"model.backbone.pretrained": False, "model.backbone.gate_loss.kind": kind}
    model = MODELS.build(small("msvit_small_imagenette", **options).model).train()
    images, labels = torch.rand(4, 3, 224, 224), torch.tensor([0, 3, 6, 9])
    losses = model(images, labels, mode="loss")
    torch.testing.assert_close(losses["loss"], losses["cross_entropy"] + losses["auxiliary"])
    losses["auxiliary"].backward()
    learned = {name.split(".")[1] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert "gate" in learned and ("gate_loss" in learned) == (kind == "generalized")
    # The backbone learns nothing from where the gate's border is.
    assert ("patch_embed" in learned) == (kind != "gain")


def test_random_regions_train_without_a_gate():
    options = {"model.backbone.choice": "random", "model.backbone.budget": 0.25, "find_unused_parameters": True}
    model = MODELS.build(small("msvit_small_imagenette", **{"model.backbone.pretrained": False, **options}).model)
    losses = model.train()(torch.rand(2, 3, 224, 224), torch.tensor([0, 9]), mode="loss")
    assert losses.keys() == {"loss"}
    losses["loss"].backward()
    assert model.backbone.gate.pos_embed.grad is None
    [prediction] = model.eval()(torch.rand(2, 3, 224, 224), mode="predict")
    torch.testing.assert_close(prediction["costs"]["fine_share"], torch.full((2,), 12 / 49).double())
