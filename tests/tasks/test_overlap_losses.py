import math

import pytest
import torch
from torch import Tensor

from gatedvision.tasks._overlap_losses import LOSSES, cross_entropy_loss, published_dice_loss, soft_dice_loss

SIDES = [(5, 7), (4, 3, 5)]
KINDS = [(channels, sides) for channels in (1, 2, 4) for sides in SIDES]


def draw(channels: int, sides: tuple[int, ...], ignored: bool = True) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(channels)
    logits = torch.randn(3, channels, *sides, generator=generator, dtype=torch.float64)
    labels = torch.randint(max(channels, 2), (3, *sides), generator=generator, dtype=torch.uint8)
    if ignored:
        labels[torch.rand(labels.shape, generator=generator) < 0.3] = 255
    return logits, labels


def by_hand(name: str, logits: Tensor, labels: Tensor) -> float:
    """The same pixel by pixel."""
    images, channels = logits.shape[:2]
    quotients, entropies = [], []
    for image in range(images):
        columns = logits[image].flatten(1).T.tolist()
        truth = labels[image].flatten().tolist()
        probabilities = []
        for column in columns:
            if channels == 1:
                probabilities.append([1 / (1 + math.exp(-column[0]))])
            else:
                total = sum(math.exp(value) for value in column)
                probabilities.append([math.exp(value) / total for value in column])
        entropies += [
            -math.log(p[t] if channels > 1 else p[0] if t == 1 else 1 - p[0])
            for p, t in zip(probabilities, truth, strict=True)
            if t != 255
        ]
        for channel in range(channels):
            label = 1 if channels == 1 else channel
            kept = [(p[channel], float(t == label)) for p, t in zip(probabilities, truth, strict=True) if t != 255]
            both, each = sum(p * t for p, t in kept), sum(p + t for p, t in kept)
            if name == "published_dice":
                quotients.append(2 * (both + 0.01) / (each + 0.01))
            elif channels == 1 or channel > 0:
                quotients.append((2 * both + 1) / (each + 1))
    return sum(entropies) / len(entropies) if name == "cross_entropy" else 1 - sum(quotients) / len(quotients)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("channels", "sides"), KINDS)
def test_each_is_its_formula(name, channels, sides):
    logits, labels = draw(channels, sides)
    loss = LOSSES[name](logits, labels, 255)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(by_hand(name, logits, labels), rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients(name, channels):
    logits, labels = draw(channels, (3, 2, 2))
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, labels, 255), logits.requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("channels", [1, 3])
def test_ignored_pixels_do_not_count_and_may_be_all(name, channels):
    logits, labels = draw(channels, (5, 7))
    changed = torch.where((labels == 255)[:, None], 100.0, logits)
    assert torch.equal(LOSSES[name](logits, labels, 255), LOSSES[name](changed, labels, 255))
    logits.requires_grad_()
    LOSSES[name](logits, torch.full_like(labels, 255), 255).backward()
    assert not logits.grad.any()


def test_what_an_empty_class_scores():
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    right = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    right[:, 0] = 60.0
    assert soft_dice_loss(right, labels, 255).item() == pytest.approx(0, abs=1e-12)
    # Two perfect empty classes count 2, the background 2 * 64.01 / 128.01: the loss falls below zero.
    assert published_dice_loss(right, labels, 255).item() == pytest.approx(1 - (4 + 2 * 64.01 / 128.01) / 3, rel=1e-9)
    assert published_dice_loss(right, labels, 255) < -0.6
    wrong = right.roll(1, 1)
    # Class 1 everywhere: 1 / 65, and class 2 is rightly empty.
    assert soft_dice_loss(wrong, labels, 255).item() == pytest.approx(1 - (1 / 65 + 1) / 2)
    single = torch.full((1, 1, 8, 8), -60.0)
    assert soft_dice_loss(single, labels, 255).item() == pytest.approx(0, abs=1e-6)


def test_perfect_and_opposite_predictions_bound_the_loss():
    _, labels = draw(4, (6, 6), ignored=False)
    right = 60 * torch.nn.functional.one_hot(labels.long(), 4).movedim(-1, 1).double()
    assert 0 <= soft_dice_loss(right, labels, 255) < 1e-6
    assert cross_entropy_loss(right, labels, 255) < 1e-6
    assert 0.8 < soft_dice_loss(right.roll(1, 1), labels, 255) < 1


@pytest.mark.parametrize("name", LOSSES)
def test_float32_under_autocast_and_for_half_precision(name):
    # 70,000 probabilities near one would overflow float16, and count to 256 in bfloat16.
    logits = torch.full((1, 1, 70_000 // 100, 100), 4.0)
    labels = torch.ones(1, *logits.shape[2:], dtype=torch.uint8)
    expected = LOSSES[name](logits, labels, 255)
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = LOSSES[name](logits.to(dtype), labels, 255)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected)
