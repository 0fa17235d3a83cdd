import pytest
import torch
from torch.nn import functional

from gatedvision.metrics import Accuracy


def batches(logits: torch.Tensor, labels: torch.Tensor, batch_size: int) -> list[dict[str, torch.Tensor]]:
    return [
        {"logits": logits[start : start + batch_size], "labels": labels[start : start + batch_size]}
        for start in range(0, len(labels), batch_size)
    ]


def evaluate(metric: Accuracy, logits: torch.Tensor, labels: torch.Tensor, batch_size: int = 4) -> dict[str, float]:
    for batch in batches(logits, labels, batch_size):
        metric.process(None, [batch])
    return metric.evaluate(len(labels))


def test_values_by_hand():
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 5.0, 0.0]])
    metrics = evaluate(Accuracy(topk=(1, 2)), logits, torch.tensor([0, 1, 2, 1]))
    assert metrics["accuracy/top1"] == 50.0
    assert metrics["accuracy/top2"] == 75.0
    expected = functional.cross_entropy(logits, torch.tensor([0, 1, 2, 1])).item()
    assert metrics["loss"] == pytest.approx(expected, rel=1e-6)


def test_k_above_the_number_of_classes_counts_all():
    metrics = evaluate(Accuracy(topk=(1, 5)), torch.eye(3), torch.tensor([1, 1, 1]))
    assert metrics["accuracy/top1"] == pytest.approx(100 / 3)
    assert metrics["accuracy/top5"] == 100.0


def test_batches_do_not_show_and_repeated_images_do_not_count():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(11, 10, generator=generator), torch.randint(10, (11,), generator=generator)
    one, many = evaluate(Accuracy(), logits, labels, 11), evaluate(Accuracy(), logits, labels, 2)
    assert one == many
    metric = Accuracy()
    # What a sampler does that fills up the last batch with the first images.
    for batch in batches(torch.cat([logits, logits[:3]]), torch.cat([labels, labels[:3]]), 4):
        metric.process(None, [batch])
    assert metric.evaluate(11) == one


def test_equal_scores_are_no_hit_for_every_class():
    metrics = evaluate(Accuracy(topk=(1,)), torch.zeros(4, 4), torch.arange(4))
    assert metrics["accuracy/top1"] == 25.0


def test_a_second_evaluation_starts_afresh():
    metric = Accuracy(topk=(1,))
    assert evaluate(metric, torch.eye(2), torch.tensor([1, 0]))["accuracy/top1"] == 0.0
    assert evaluate(metric, torch.eye(2), torch.tensor([0, 1]))["accuracy/top1"] == 100.0


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"topk must hold positive numbers, got \(0,\)"):
        Accuracy(topk=(0,))
    with pytest.raises(ValueError, match="empty dataset"):
        Accuracy().evaluate(0)
