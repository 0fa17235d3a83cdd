"""Every combination of dials in one pass, against evaluations one by one."""

from functools import partial

import pytest
import torch
from mmengine.registry import DATASETS

from gatedvision.data import collate_samples
from gatedvision.engine.capacity_sweep import sweep_capacity
from tests.engine.digits_experts import CONFIG, SMALL, build, save


@pytest.fixture
def run(tmp_path):
    return partial(save, tmp_path)


@torch.inference_mode()
def accuracy(model, config, **dials) -> float:
    dataset = DATASETS.build(config.test_dataloader.dataset)
    batch = collate_samples([dataset[index] for index in range(len(dataset))])
    model.backbone.set_capacity(dials.pop("capacity"), **dials)
    size = config.test_dataloader.batch_size
    logits = torch.cat([model(inputs) for inputs in batch["inputs"].split(size)])
    return 100 * (logits.argmax(1) == batch["labels"]).double().mean().item()


def test_every_combination(run):
    options = dict(capacity=[0.25, 4.0, float("inf")], num_selected=[1, 2], device="cpu", seconds=1e-3)
    cfg_options = {**SMALL, "test_dataloader.batch_size": 71}
    report = sweep_capacity(CONFIG, run(), cfg_options=cfg_options, **options)
    config, model = build(**cfg_options)
    dials = [(row["priority"], row["experts a token"], row["capacity"]) for row in report.rows]
    assert dials == [(p, k, c) for p in ("vanilla", "batch") for k in (1, 2) for c in options["capacity"]]
    for row in report.rows:
        own = accuracy(
            model, config, capacity=row["capacity"], priority=row["priority"], num_selected=row["experts a token"]
        )
        assert row["accuracy/top1"] == pytest.approx(own)
        rate = row["images/s (20–80 %)"]
        assert 0 < rate.low <= rate.median <= rate.high and row["peak memory (MiB)"] is None
    by_dials = dict(zip(dials, report.rows, strict=True))
    assert len({row["accuracy/top1"] for row in report.rows}) > 4
    for priority in ("vanilla", "batch"):
        few, all_of_them, exact = (by_dials[priority, 2, capacity] for capacity in options["capacity"])
        # Slots for a quarter of two choices, so for half of the tokens at most.
        assert few["tokens left out (%)"] > 49 and all_of_them["tokens left out (%)"] == 0
        assert all_of_them["loss"] == pytest.approx(exact["loss"], abs=1e-5)
        assert few["GMACs per image"] < exact["GMACs per image"] < all_of_them["GMACs per image"]
    assert report.title.endswith("epoch_1.pth, 355 images, timed in batches of 71, fp32")


def test_multiply_adds_follow_the_capacity(run):
    found = [
        sweep_capacity(CONFIG, run(), [factor], ["batch"], device="cpu", seconds=1e-3, cfg_options=SMALL).rows[0]
        for factor in (1.0, 2.0, float("inf"))
    ]
    one, two, exact = (row["GMACs per image"] for row in found)
    # Of an image, 17 tokens make two choices in each of two blocks; a group of eight divides them evenly.
    per_slot = 2 * 16 * 64 / 1e9
    assert two - one == pytest.approx(2 * 17 * 2 * per_slot, rel=1e-6)
    assert one == pytest.approx(exact, rel=1e-6)


def test_experts_that_choose_have_a_capacity_only(run):
    options = {**SMALL, "model.backbone.routing": "expert_choice"}
    report = sweep_capacity(CONFIG, run(**options), [0.5, 1.0], device="cpu", seconds=1e-3, cfg_options=options)
    assert [(row["priority"], row["experts a token"], row["capacity"]) for row in report.rows] == [
        (None, None, 0.5),
        (None, None, 1.0),
    ]
    with pytest.raises(ValueError, match="neither priority nor num_selected to set"):
        sweep_capacity(CONFIG, run(**options), [0.5], ["batch"], device="cpu", cfg_options=options)
