import math

import pytest
import torch

from gatedvision.metrics import SegmentationMetrics
from gatedvision.metrics.segmentation import confusion_matrix

CLASSES = ("a", "b", "c", "d", "e", "never")


def draw_maps(count: int, ignore_index: int = 255) -> list[dict[str, torch.Tensor]]:
    """Predictions that are right half of the time; the last class occurs in neither, one more in predictions only."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for index in range(count):
        labels = torch.randint(4, (17 + index, 23), generator=generator)
        guesses = torch.randint(5, labels.shape, generator=generator)
        predicted = torch.where(torch.rand(labels.shape, generator=generator) < 0.5, labels, guesses)
        labels[torch.rand(labels.shape, generator=generator) < 0.2] = ignore_index
        samples.append({"label_map": predicted, "labels": labels, "ignore_index": ignore_index})
    return samples


def evaluate(samples, size: int | None = None, **options) -> dict[str, float]:
    metric = SegmentationMetrics(**options)
    metric.dataset_meta = {"classes": CLASSES}
    for sample in samples:
        metric.process(None, [sample])
    return metric.evaluate(len(samples) if size is None else size)


def test_values_by_hand():
    labels = torch.tensor([[0, 0, 1, 1], [1, 2, 255, 255]])
    predicted = torch.tensor([[0, 1, 1, 1], [2, 2, 0, 5]])
    sample = {"label_map": predicted, "labels": labels, "ignore_index": 255, "loss": torch.tensor(3.0)}
    metrics = evaluate([sample], per_class=True)
    assert metrics["aAcc"] == pytest.approx(100 * 4 / 6)
    assert metrics["mIoU"] == pytest.approx(100 * (1 / 2 + 2 / 4 + 1 / 2) / 3)
    assert metrics["mAcc"] == pytest.approx(100 * (1 / 2 + 2 / 3 + 1) / 3)
    assert metrics["loss"] == pytest.approx(3 / 6)
    assert {name for name in metrics if "/" in name} == {"IoU/a", "IoU/b", "IoU/c"}


@pytest.mark.parametrize("ignore_index", [255, -1])
def test_equals_a_direct_count(ignore_index):
    samples = draw_maps(5, ignore_index)
    metrics = evaluate(samples, per_class=True)
    labels = torch.cat([sample["labels"].flatten() for sample in samples])
    predicted = torch.cat([sample["label_map"].flatten() for sample in samples])
    counted = labels != ignore_index
    right = (labels == predicted)[counted]
    assert metrics["aAcc"] == 100 * right.sum().item() / counted.sum().item()
    ious = []
    for label, name in enumerate(CLASSES):
        both = ((labels == label) & (predicted == label) & counted).sum().item()
        either = (((labels == label) | (predicted == label)) & counted).sum().item()
        if either:
            ious.append(100 * both / either)
            assert metrics[f"IoU/{name}"] == pytest.approx(ious[-1], rel=1e-12)
    assert len(ious) == 5 and "IoU/never" not in metrics
    assert metrics["mIoU"] == pytest.approx(sum(ious) / 5, rel=1e-12)


def test_equals_torchmetrics():
    classification = pytest.importorskip("torchmetrics.classification")
    samples = draw_maps(4)
    jaccard = classification.MulticlassJaccardIndex(len(CLASSES), ignore_index=255)
    accuracy = classification.MulticlassAccuracy(len(CLASSES), average="micro", ignore_index=255)
    for sample in samples:
        jaccard.update(sample["label_map"], sample["labels"])
        accuracy.update(sample["label_map"], sample["labels"])
    metrics = evaluate(samples)
    assert metrics["mIoU"] == pytest.approx(100 * jaccard.compute().item(), rel=1e-6)
    assert metrics["aAcc"] == pytest.approx(100 * accuracy.compute().item(), rel=1e-6)


def test_images_in_any_order_and_repeated_ones():
    samples = draw_maps(5)
    for index, sample in enumerate(samples):
        sample["loss"] = torch.tensor(0.1 * index)
    expected = evaluate(samples)
    assert evaluate(samples[::-1]) == expected
    # What a sampler does that fills up the last batch with the first images.
    assert evaluate([*samples, *samples[:2]], size=5) == expected


def test_an_image_without_labels_counts_nothing():
    samples = draw_maps(2)
    blank = {**samples[0], "labels": torch.full_like(samples[0]["labels"], 255)}
    assert evaluate([*samples, blank]) == evaluate(samples)
    with pytest.raises(ValueError, match="no pixel with a label in 1 images"):
        evaluate([blank])


def test_means_leave_out_what_is_not_there():
    sample = {"label_map": torch.zeros(4, 4), "labels": torch.zeros(4, 4), "ignore_index": 255}
    metrics = evaluate([sample])
    assert metrics == {"aAcc": 100.0, "mIoU": 100.0, "mAcc": 100.0}
    assert not any(math.isnan(value) for value in metrics.values())


def test_bad_input_is_named():
    labels = torch.tensor([[0, 7]])
    with pytest.raises(ValueError, match=r"labels reach from 0 to 7, not 0\.\.5"):
        confusion_matrix(torch.zeros(1, 2), labels, 6, 255)
    with pytest.raises(ValueError, match=r"predictions reach from -1 to 0"):
        confusion_matrix(torch.tensor([[0, -1]]), torch.zeros(1, 2), 6, 255)
    with pytest.raises(ValueError, match=r"predictions \(1, 1\) do not fit labels \(1, 2\)"):
        confusion_matrix(torch.zeros(1, 1), labels, 6, 255)
    with pytest.raises(ValueError, match=r'metainfo\["classes"\]'):
        SegmentationMetrics().process(None, draw_maps(1))
