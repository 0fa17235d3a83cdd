"""Dice and cross entropy for images and volumes, of one class by sigmoid and of several by softmax.

Logits are ``[B, K, *sides]`` and labels ``[B, *sides]``, classes or the ``ignore_index``. With one channel, its sigmoid
is the probability of class 1. All is computed in float32 or better, whatever autocast says: a volume's sum of
probabilities is beyond half precision.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH = 1.0
PUBLISHED_SMOOTH = 0.01


def soft_dice_loss(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Soft Dice loss over the foreground classes, ``1 - mean (2 sum(p t) + 1) / (sum p + sum t + 1)``.

    The quotient is taken for each image and class, over the pixels that are not ignored, and lies in (0, 1]. A class
    that an image does not have scores 1 where nothing is predicted as it, and less the more is.

    Args:
        logits: ``[B, K, *sides]``.
        labels: ``[B, *sides]``.
        ignore_index: label of the pixels that do not count.

    Returns:
        The loss, in [0, 1).
    """
    probability, target = _classes(logits, labels, ignore_index)
    if probability.shape[1] > 1:
        probability, target = probability[:, 1:], target[:, 1:]
    both, each = _sums(probability, target)
    return 1 - ((2 * both + SMOOTH) / (each + SMOOTH)).mean()


def published_dice_loss(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """The loss of the published CT networks, ``1 - mean 2 (sum(p t) + 0.01) / (sum p + sum t + 0.01)``.

    Over all classes with the background. The small term stands within the doubled numerator, so a class that is
    neither in the labels nor predicted scores 2 instead of 1: the loss then falls below 0, down to -1, and patches
    without an organ pull harder than those with one. :func:`soft_dice_loss` is the corrected form.

    Args:
        logits: ``[B, K, *sides]``.
        labels: ``[B, *sides]``.
        ignore_index: label of the pixels that do not count.

    Returns:
        The loss, in (-1, 1).
    """
    both, each = _sums(*_classes(logits, labels, ignore_index))
    return 1 - (2 * (both + PUBLISHED_SMOOTH) / (each + PUBLISHED_SMOOTH)).mean()


def cross_entropy_loss(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Mean cross entropy in nats over the pixels that are not ignored; 0 where all are.

    Args:
        logits: ``[B, K, *sides]``.
        labels: ``[B, *sides]``.
        ignore_index: label of the pixels that do not count.

    Returns:
        The loss.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = _at_least_float32(logits)
        counted = labels != ignore_index
        if logits.shape[1] > 1:
            total = F.cross_entropy(logits, labels.long(), ignore_index=ignore_index, reduction="sum")
        else:
            target = (labels == 1).to(logits)
            loss = F.binary_cross_entropy_with_logits(logits[:, 0], target, reduction="none")
            total = (loss * counted).sum()
        return total / counted.sum().clamp(min=1)


Loss = Callable[[Tensor, Tensor, int], Tensor]
LOSSES: dict[str, Loss] = {
    "dice": soft_dice_loss,
    "published_dice": published_dice_loss,
    "cross_entropy": cross_entropy_loss,
}


def _classes(logits: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Probabilities and one-hot labels ``[B, K, *sides]``, both 0 where pixels are ignored."""
    with torch.autocast(logits.device.type, enabled=False):
        logits = _at_least_float32(logits)
        counted = (labels != ignore_index)[:, None]
        if logits.shape[1] == 1:
            probability, numbers = logits.sigmoid(), [1]
        else:
            probability, numbers = logits.softmax(1), list(range(logits.shape[1]))
        classes = torch.tensor(numbers, device=labels.device).view(1, -1, *[1] * (labels.ndim - 1))
        return probability * counted, (labels[:, None] == classes).to(logits) * counted


def _sums(probability: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the pixels ``[B, K]``: of what both have, and of each added."""
    axes = tuple(range(2, probability.ndim))
    with torch.autocast(probability.device.type, enabled=False):
        return (probability * target).sum(axes), probability.sum(axes) + target.sum(axes)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
