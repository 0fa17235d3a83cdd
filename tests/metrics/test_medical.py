import math
from itertools import product

import numpy as np
import pytest
import torch

from gatedvision.metrics import MedicalMetrics
from gatedvision.metrics.medical import overlap, surface_distances

CLASSES = ("background", "liver", "spleen")


def draw_blob(sides: tuple[int, ...], seed: int) -> np.ndarray:
    """A box with holes and islands."""
    generator = np.random.default_rng(seed)
    mask = generator.random(sides) < 0.1
    mask[tuple(slice(seed % 2, side // 2 + seed % 3) for side in sides)] = True
    return mask & (generator.random(sides) < 0.95)


def by_search(predicted: np.ndarray, target: np.ndarray, spacing: tuple[float, ...]) -> tuple[float, float]:
    """Every pixel of one surface against every pixel of the other."""

    def surface(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, 1)
        places = []
        for place in product(*map(range, mask.shape)):
            neighbours = [
                padded[tuple(n + 1 + step * (axis == other) for other, n in enumerate(place))]
                for axis in range(mask.ndim)
                for step in (-1, 1)
            ]
            if mask[place] and not all(neighbours):
                places.append(np.array(place) * spacing)
        return np.array(places)

    one, other = surface(predicted), surface(target)
    distances = np.sqrt(((one[:, None] - other[None]) ** 2).sum(-1))
    there, back = distances.min(1), distances.min(0)
    return np.concatenate([there, back]).mean(), max(np.percentile(there, 95), np.percentile(back, 95))


@pytest.mark.parametrize(
    ("sides", "spacing"), [((12, 9), (1.0, 1.0)), ((8, 11), (0.5, 3.0)), ((7, 6, 5), (1.5, 1.5, 4.0))]
)
def test_surface_distances_equal_a_search(sides, spacing):
    one, other = draw_blob(sides, 1), draw_blob(sides, 2)
    assert surface_distances(one, other, spacing) == pytest.approx(by_search(one, other, spacing), rel=1e-12)
    assert surface_distances(other, one, spacing) == pytest.approx(by_search(one, other, spacing), rel=1e-12)
    # What is far around both of them changes nothing.
    padded = [np.pad(mask, 5) for mask in (one, other)]
    assert surface_distances(*padded, spacing) == surface_distances(one, other, spacing)
    assert surface_distances(one, one, spacing) == (0, 0)


def test_spacing_by_hand():
    one, other = np.zeros((2, 9, 4, 4), dtype=bool)
    one[2, 1:3, 1:3] = True
    other[5, 1:3, 1:3] = True
    assert surface_distances(one, other, (2.5, 1.0, 1.0)) == (7.5, 7.5)


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0), (1.0, math.nan), (1.0, 1.0, 1.0)])
def test_a_bad_spacing_is_named(spacing):
    mask = np.ones((3, 3), dtype=bool)
    with pytest.raises(ValueError, match=r"spacing must be 2 positive lengths, got \(1.0"):
        surface_distances(mask, mask, spacing)


def test_overlap_by_hand():
    one, other = np.zeros((2, 10), dtype=bool)
    one[:4], other[2:8] = True, True
    assert overlap(one, other) == (0.4, 0.25)
    assert overlap(one, one) == (1, 1) and overlap(one, ~one) == (0, 0)
    assert overlap(one & False, one & False) == (1, 1) and overlap(one & False, one) == (0, 0)


def make_samples(count: int = 5) -> list[dict]:
    samples = []
    for index in range(count):
        labels = np.zeros((14, 12 + index), dtype=np.uint8)
        predicted = labels.copy()
        labels[2 : 8 + index, 2:7], predicted[3 : 8 + index, 2:8] = 1, 1
        labels[1, 8 : 10 + index] = 2
        predicted[1, 8:10] = 2
        labels[:, -1] = 255
        sample = {"label_map": torch.from_numpy(predicted), "labels": torch.from_numpy(labels), "ignore_index": 255}
        samples.append({**sample, "name": f"case_{index}"})
    return samples


def evaluate(samples, size: int | None = None, **options) -> dict[str, float]:
    metric = MedicalMetrics(**options)
    metric.dataset_meta = {"classes": CLASSES}
    for sample in samples:
        metric.process(None, [sample])
    return metric.evaluate(len(samples) if size is None else size)


def test_means_over_images_and_then_classes():
    samples = make_samples()
    metrics = evaluate(samples)
    for number, name in enumerate(CLASSES[1:], 1):
        values = []
        for sample in samples:
            counted = sample["labels"].numpy() != 255
            masks = [(sample[key].numpy() == number) & counted for key in ("label_map", "labels")]
            values.append([*overlap(*masks), *surface_distances(*masks, (1, 1))])
        for metric, expected in zip(("Dice", "IoU", "ASD", "HD95"), np.mean(values, 0), strict=True):
            assert metrics[f"{metric}/{name}"] == pytest.approx(expected, rel=1e-12)
    assert metrics["Dice"] == pytest.approx((metrics["Dice/liver"] + metrics["Dice/spleen"]) / 2, rel=1e-12)
    assert evaluate(samples, per_class=False, distances=False).keys() == {"Dice", "IoU"}


def test_empty_masks_have_values():
    blank = torch.zeros(3, 4, dtype=torch.uint8)
    liver, spleen = blank + 1, blank + 2
    for predicted, labels, dice, distance in (
        (blank, blank, (1, 1), (0, 0)),
        (liver, blank, (0, 1), (5, 0)),
        (liver, spleen, (0, 0), (5, 5)),
        (spleen, torch.full_like(blank, 255), (1, 1), (0, 0)),
    ):
        metrics = evaluate([{"label_map": predicted, "labels": labels, "ignore_index": 255}])
        assert (metrics["Dice/liver"], metrics["Dice/spleen"]) == (metrics["IoU/liver"], metrics["IoU/spleen"]) == dice
        assert (metrics["ASD/liver"], metrics["ASD/spleen"]) == distance
        assert (metrics["HD95/liver"], metrics["HD95/spleen"]) == distance
    volume = {
        "label_map": torch.ones(3, 4, 12, dtype=torch.uint8),
        "labels": torch.zeros(3, 4, 12),
        "ignore_index": 255,
    }
    assert evaluate([{**volume, "spacing": (1, 1, 1)}])["HD95/liver"] == 13


def test_images_in_any_order_and_repeated_ones():
    samples = make_samples()
    expected = evaluate(samples)
    assert evaluate(samples[::-1]) == expected
    # What a sampler does that fills up the last batch with the first images.
    assert evaluate([*samples, *samples[:2]], size=5) == expected


def test_equals_torchmetrics():
    segmentation = pytest.importorskip("torchmetrics.functional.segmentation")
    samples = make_samples()
    metrics = evaluate(samples)
    scores = []
    for sample in samples:
        labels = torch.where(sample["labels"] == 255, 0, sample["labels"])
        guesses = torch.where(sample["labels"] == 255, 0, sample["label_map"])
        one_hot = [F.long()[None] for F in (guesses, labels)]
        score = segmentation.dice_score(*one_hot, 3, include_background=False, average=None, input_format="index")
        scores.append(score[0])
    assert metrics["Dice/liver"] == pytest.approx(torch.stack(scores).mean(0)[0].item(), rel=1e-6)
    assert metrics["Dice/spleen"] == pytest.approx(torch.stack(scores).mean(0)[1].item(), rel=1e-6)


def test_bad_input_is_named():
    sample = make_samples(1)[0]
    volume = {"label_map": torch.zeros(3, 3, 3), "labels": torch.zeros(3, 3, 3), "ignore_index": 255, "name": "scan"}
    with pytest.raises(ValueError, match="the spacing of 'scan' is unknown, and with it distances in mm: give"):
        evaluate([volume])
    assert evaluate([volume], distances=False)["Dice"] == 1
    with pytest.raises(ValueError, match=r"prediction 7 in 'case_0' is none of the classes 0\.\.2"):
        evaluate([{**sample, "label_map": sample["label_map"] + 7}])
    with pytest.raises(ValueError, match=r"label 3 in 'case_0' is none of the classes 0\.\.2"):
        evaluate([{**sample, "labels": torch.full_like(sample["labels"], 3)}])
    with pytest.raises(ValueError, match=r"the prediction \(14, 11\) does not fit the labels \(14, 12\) of 'case_0'"):
        evaluate([{**sample, "label_map": sample["label_map"][:, 1:]}])
    with pytest.raises(ValueError, match=r'metainfo\["classes"\]'):
        MedicalMetrics().process(None, [sample])
    metric = MedicalMetrics()
    metric.dataset_meta = {"classes": CLASSES}
    with pytest.raises(ValueError, match="empty dataset"):
        metric.compute_metrics([])
