"""Top-k accuracy and mean cross entropy of a classifier."""

import math
from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric
from torch.nn import functional


class Accuracy(BaseMetric):
    """Share of images whose class is among the k highest scores, and the mean cross entropy.

    Every image counts once, however the dataset is spread over processes: the results of single images are gathered
    and the ones a sampler repeated to fill up the last batch are dropped.

    Args:
        topk: values of k; one above the number of classes counts as that number.

    Returns (of ``evaluate``):
        ``accuracy/top<k>`` in percent for each k and ``loss``, in nats, without label smoothing.
    """

    default_prefix = ""

    def __init__(self, topk: Sequence[int] = (1, 5)) -> None:
        # "gpu" means: through the process group, whatever its device, and not through files in the current folder.
        super().__init__(collect_device="gpu")
        if not topk or min(topk) < 1:
            raise ValueError(f"topk must hold positive numbers, got {tuple(topk)}")
        self.topk = tuple(topk)

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Note the loss and the hits of each image of a batch.

        Args:
            data_batch: unused; the predictions carry their labels.
            data_samples: batches of predictions, each with ``logits`` [B, num_classes] and ``labels`` [B].
        """
        for batch in data_samples:
            logits, labels = batch["logits"].float(), batch["labels"]
            num_classes = logits.shape[1]
            losses = functional.cross_entropy(logits, labels, reduction="none")
            ranked = logits.topk(min(max(self.topk), num_classes), dim=1).indices
            is_hit = ranked == labels[:, None]
            hits = [is_hit[:, :k].any(dim=1).tolist() for k in self.topk]
            self.results.extend(zip(losses.tolist(), *hits, strict=True))

    def compute_metrics(self, results: list[tuple[float, ...]]) -> dict[str, float]:
        """Average over the images.

        Args:
            results: the loss and the hits of each image.

        Returns:
            Metrics by name.

        Raises:
            ValueError: there are no images.
        """
        if not results:
            raise ValueError("accuracy of an empty dataset: no image was evaluated")
        losses, *hits = zip(*results, strict=True)
        metrics = {f"accuracy/top{k}": 100.0 * sum(hit) / len(hit) for k, hit in zip(self.topk, hits, strict=True)}
        # fsum rounds once, so the order in which the processes deliver their images does not show.
        metrics["loss"] = math.fsum(losses) / len(losses)
        return metrics
