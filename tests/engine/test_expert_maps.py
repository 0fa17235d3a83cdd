"""What experts see: counts of choices, what they tell about classes, and the routing of the images that are drawn."""

from functools import partial

import pytest
import torch
from mmengine.registry import DATASETS
from PIL import Image, ImageStat

from gatedvision.engine.expert_maps import _count_choices, _describe, draw_expert_maps
from gatedvision.engine.trained_model import load_trained
from tests.engine.digits_experts import CONFIG, SMALL, save

FEW = {"model.backbone.eval_capacity_factor": 0.25, "model.backbone.eval_priority": "batch"}


@pytest.fixture
def run(tmp_path):
    return partial(save, tmp_path)


def test_what_an_expert_tells_about_the_class():
    told = _describe(8 * torch.eye(4))
    assert told == {"busiest": 0.25, "idlest": 0.25, "bits": pytest.approx(2.0)}
    # Two classes share an expert, and another is idle.
    table = torch.tensor([[6.0, 0, 0], [6.0, 0, 0], [0, 12.0, 0]])
    assert _describe(table) == {"busiest": 0.5, "idlest": 0.0, "bits": pytest.approx(1.0)}
    assert _describe(torch.ones(4, 2))["bits"] == pytest.approx(0.0)


@pytest.mark.parametrize("options", [{}, {"model.backbone.num_members": 2, "model.backbone.load_weight": 0.0}])
def test_all_choices_of_a_class_are_counted(run, options):
    options = {**SMALL, **FEW, **options}
    trained = load_trained(CONFIG, run(**options), device="cpu", cfg_options=options)
    trained.task.backbone.keep_routing()
    dataset = DATASETS.build(trained.cfg.test_dataloader.dataset)
    with torch.inference_mode():
        tables = _count_choices(trained, dataset)
    images = torch.tensor(dataset.labels).bincount()
    members = options.get("model.backbone.num_members", 1)
    assert list(tables) == [0, 1]
    for table in tables.values():
        # 16 patches and the class token choose two experts each.
        assert table.shape == (10, 4) and torch.equal(table.sum(1), images * 17 * 2 * members)


def test_pictures_of_few_slots(run, tmp_path):
    options = {**SMALL, **FEW}
    found = draw_expert_maps(CONFIG, run(), tmp_path / "new" / "maps.png", 3, device="cpu", cfg_options=options)
    assert [entry["block"] for entry in found] == [0, 1]
    # A group of three images has 51 tokens and 102 choices: a quarter makes 6.4 slots an expert, raised to 8.
    assert all(0.1 < entry["kept"] <= 4 * 8 / 102 for entry in found)
    assert all(0 <= entry["idlest"] < 0.25 < entry["busiest"] for entry in found)
    with Image.open(tmp_path / "new" / "maps_patches.png") as picture:
        assert picture.size == (3 * (160 + 2), 3 * (160 + 26 + 2))
        pixels = picture.convert("RGB")
        original, dropped = (pixels.crop((left, 30, left + 150, 180)) for left in (5, 167))
    # Red where the image is grey.
    assert ImageStat.Stat(original).mean[0] == ImageStat.Stat(original).mean[2]
    red, _, blue = dropped.split()
    assert ImageStat.Stat(red).mean[0] > ImageStat.Stat(blue).mean[0] + 50
    with Image.open(tmp_path / "new" / "maps.png") as picture:
        assert picture.mode == "RGB" and picture.height > 10 * 20


def test_experts_that_choose_are_counted_where_they_did(run, tmp_path):
    options = {**SMALL, "model.backbone.routing": "expert_choice", "model.backbone.eval_capacity_factor": 1.0}
    found = draw_expert_maps(CONFIG, run(**options), device="cpu", cfg_options=options)
    for entry in found:
        assert entry["busiest"] == entry["idlest"] == 0.25
        # As many choices as tokens, of four times as many that could be.
        assert entry["kept"] == pytest.approx(0.25, abs=0.03)


def test_mixtures_of_all_tokens_have_no_map(run):
    options = {**SMALL, "model.backbone.routing": "soft", "model.backbone.num_slots": 1}
    with pytest.raises(ValueError, match="sends no tokens to experts"):
        draw_expert_maps(CONFIG, run(**options), device="cpu", cfg_options=options)
