"""Intersection over union and accuracies of semantic segmentation."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

# The confusion matrix of one image without its zeros, as cells and their counts, and its summed loss.
ImageResult = tuple[Tensor, Tensor, float | None]


class SegmentationMetrics(BaseMetric):
    """Pixel accuracy, mean IoU and mean class accuracy, from one confusion matrix over all pixels of all images.

    A class that is neither in the labels nor in the predictions has no IoU and does not enter the mean. Every image
    counts once, however the dataset is spread over processes: the matrices of single images are gathered, and those
    of images that a sampler repeated to fill up the last batch are dropped.

    Args:
        per_class: report the IoU of each class, too.

    Returns (of ``evaluate``):
        ``aAcc`` (pixels that are right), ``mIoU`` and ``mAcc`` (mean over classes of the share of a class's pixels
        that are right) in percent; ``IoU/<class>`` of those that have one; and, where predictions have it, the mean
        cross entropy ``loss`` in nats a pixel. Ignored pixels count nowhere.
    """

    default_prefix = ""

    def __init__(self, per_class: bool = False) -> None:
        # "gpu" means: through the process group, whatever its device, and not through files in the current folder.
        super().__init__(collect_device="gpu")
        self.per_class = per_class

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Count the pixels of each image of a batch.

        Args:
            data_batch: unused; the predictions carry their labels.
            data_samples: for each image ``label_map`` and ``labels`` ``[H, W]``, ``ignore_index`` and perhaps
                ``loss``, summed over its pixels.

        Raises:
            ValueError: a label or a prediction is no class of the dataset.
        """
        num_classes = len(self._classes())
        for sample in data_samples:
            matrix = confusion_matrix(sample["label_map"], sample["labels"], num_classes, sample["ignore_index"]).cpu()
            cells = matrix.flatten().nonzero().flatten()
            loss = float(sample["loss"]) if "loss" in sample else None
            self.results.append((cells, matrix.flatten()[cells], loss))

    def compute_metrics(self, results: list[ImageResult]) -> dict[str, float]:
        """Add up the images.

        Args:
            results: what :meth:`process` noted for each image.

        Returns:
            Metrics by name.

        Raises:
            ValueError: there are no images, or all their pixels are ignored.
        """
        classes = self._classes()
        matrix = torch.zeros(len(classes) ** 2, dtype=torch.int64)
        for cells, counts, _ in results:
            matrix[cells] += counts
        matrix = matrix.view(len(classes), len(classes))
        pixels = int(matrix.sum())
        if pixels == 0:
            raise ValueError(f"no pixel with a label in {len(results)} images")
        right, labelled, predicted = matrix.diagonal().double(), matrix.sum(1), matrix.sum(0)
        # Zero over zero is NaN: a class that is not there.
        iou = 100 * right / (labelled + predicted - right)
        accuracy = 100 * right / labelled
        metrics = {
            "aAcc": 100 * float(right.sum()) / pixels,
            "mIoU": float(iou.nanmean()),
            "mAcc": float(accuracy.nanmean()),
        }
        losses = [loss for *_, loss in results if loss is not None]
        if losses:
            # fsum rounds once, so the order in which the processes deliver their images does not show.
            metrics["loss"] = math.fsum(losses) / pixels
        if self.per_class:
            values = zip(classes, iou.tolist(), strict=True)
            metrics |= {f"IoU/{name}": value for name, value in values if not math.isnan(value)}
        return metrics

    def _classes(self) -> Sequence[str]:
        classes = (self.dataset_meta or {}).get("classes")
        if not classes:
            raise ValueError('segmentation metrics need a dataset with metainfo["classes"], their names')
        return classes


def confusion_matrix(predicted: Tensor, labels: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Count the pixels of each pair of label and prediction.

    Args:
        predicted: class indices ``[H, W]``.
        labels: class indices ``[H, W]``, or ``ignore_index``.
        num_classes: classes.
        ignore_index: label of pixels that do not count.

    Returns:
        Counts ``[num_classes, num_classes]``, a row for each label and a column for each prediction.

    Raises:
        ValueError: the maps differ in size, or hold something else.
    """
    if predicted.shape != labels.shape:
        raise ValueError(f"predictions {tuple(predicted.shape)} do not fit labels {tuple(labels.shape)}")
    counted = labels != ignore_index
    predicted, labels = predicted[counted].long(), labels[counted].long()
    for name, values in (("labels", labels), ("predictions", predicted)):
        if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < num_classes:
            raise ValueError(f"{name} reach from {int(values.min())} to {int(values.max())}, not 0..{num_classes - 1}")
    cells = labels * num_classes + predicted
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)
