"""Overlap and distance of segmented organs: Dice, IoU, average surface distance and Hausdorff distance."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from mmengine.evaluator import BaseMetric

_NAMES = ("Dice", "IoU", "ASD", "HD95")


class SurfaceDistances(NamedTuple):
    """Average symmetric surface distance and 95th percentile of the Hausdorff distance, in units of the spacing."""

    average: float
    hausdorff_95: float


class MedicalMetrics(BaseMetric):
    """Dice, IoU, average surface distance (ASD) and 95 % Hausdorff distance (HD95) of each class but the background.

    Each is the mean over images, and ``Dice`` and so on the mean of those over the classes. Where a class is neither
    in the labels nor predicted, Dice and IoU are 1 and the distances 0; where it is in one of them only, Dice and IoU
    are 0, and the distances are the image's diagonal, which no distance in it exceeds: nothing is NaN or infinite, and
    no image is left out. Ignored pixels belong to no class.

    Distances are in mm for volumes, whose spacing has to be known, and in pixels for images. Every image counts once,
    however the dataset is spread over processes: the values of single images are gathered, and those of images that a
    sampler repeated to fill up the last batch are dropped.

    Args:
        distances: measure the distances, too, which takes a second for each class of a large volume.
        per_class: report the metrics of each class, too, as ``Dice/<class>``.

    Returns (of ``evaluate``):
        ``Dice`` and ``IoU``, 0 to 1, and ``ASD`` and ``HD95``.
    """

    default_prefix = ""

    def __init__(self, distances: bool = True, per_class: bool = True) -> None:
        # "gpu" means: through the process group, whatever its device, and not through files in the current folder.
        super().__init__(collect_device="gpu")
        self.distances = distances
        self.per_class = per_class

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Measure the images of a batch.

        Args:
            data_batch: unused; the predictions carry their labels.
            data_samples: for each image ``label_map`` and ``labels`` ``[*sides]``, ``ignore_index`` and, of volumes,
                ``spacing`` in mm.

        Raises:
            ValueError: a label or a prediction is no class of the dataset, they differ in size, or the spacing of a
                volume is unknown.
        """
        classes = self._classes()
        for sample in data_samples:
            predicted, labels = sample["label_map"].cpu().numpy(), sample["labels"].cpu().numpy()
            name = sample.get("name", "an image")
            if predicted.shape != labels.shape:
                raise ValueError(f"the prediction {predicted.shape} does not fit the labels {labels.shape} of '{name}'")
            spacing = sample.get("spacing")
            if spacing is None:
                if self.distances and labels.ndim == 3:
                    raise ValueError(
                        f"the spacing of '{name}' is unknown, and with it distances in mm: give the data set spacing=, "
                        "or the metrics distances=False"
                    )
                spacing = (1.0,) * labels.ndim
            counted = labels != sample["ignore_index"]
            for what, values in (("label", labels), ("prediction", predicted)):
                wrong = values[counted & ((values < 0) | (values >= len(classes)))]
                if wrong.size:
                    raise ValueError(f"{what} {wrong[0]} in '{name}' is none of the classes 0..{len(classes) - 1}")
            self.results.append(
                [
                    self._compare((predicted == number) & counted, (labels == number) & counted, spacing)
                    for number in range(1, len(classes))
                ]
            )

    def compute_metrics(self, results: list[list[list[float]]]) -> dict[str, float]:
        """Average over images, and then over classes.

        Args:
            results: what :meth:`process` noted for each image: for each class its metrics.

        Returns:
            Metrics by name.

        Raises:
            ValueError: there are no images.
        """
        if not results:
            raise ValueError("metrics of an empty dataset: no image was evaluated")
        metrics: dict[str, float] = {}
        classes = self._classes()[1:]
        for place, name in enumerate(_NAMES if self.distances else _NAMES[:2]):
            # fsum rounds once, so the order in which the processes deliver their images does not show.
            means = [
                math.fsum(image[number][place] for image in results) / len(results) for number in range(len(classes))
            ]
            metrics[name] = math.fsum(means) / len(means)
            if self.per_class:
                metrics |= {f"{name}/{label}": mean for label, mean in zip(classes, means, strict=True)}
        return metrics

    def _compare(self, predicted: np.ndarray, target: np.ndarray, spacing: Sequence[float]) -> list[float]:
        values = [*overlap(predicted, target)]
        return values + [*surface_distances(predicted, target, spacing)] if self.distances else values

    def _classes(self) -> Sequence[str]:
        """Names of the classes.

        Raises:
            ValueError: the dataset does not say.
        """
        classes = (self.dataset_meta or {}).get("classes")
        if not classes or len(classes) < 2:
            raise ValueError('medical metrics need a dataset with metainfo["classes"], the background first')
        return classes


def overlap(predicted: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Dice coefficient and intersection over union of two masks.

    Args:
        predicted: bool ``[*sides]``.
        target: likewise.

    Returns:
        Both, 0 to 1; 1 for two empty masks.
    """
    both = int(np.count_nonzero(predicted & target))
    each = int(np.count_nonzero(predicted)) + int(np.count_nonzero(target))
    return (2 * both / each, both / (each - both)) if each else (1.0, 1.0)


def surface_distances(predicted: np.ndarray, target: np.ndarray, spacing: Sequence[float]) -> SurfaceDistances:
    """How far apart the surfaces of two masks are.

    A surface is the pixels of a mask that share a side with one outside of it, or with the image's edge. Distances are
    between centres of pixels, from each pixel of either surface to the nearest of the other, by SciPy's exact distance
    transform. Their mean is the average; the 95th percentile is taken in each direction, and the larger one counts.

    Args:
        predicted: bool ``[*sides]``.
        target: likewise.
        spacing: sides of a pixel.

    Returns:
        Both distances, in units of the spacing: 0 for two empty masks, and the diagonal of the image if one is empty.

    Raises:
        ValueError: the spacing is not a positive length for each axis.
    """
    if len(spacing) != predicted.ndim or not all(math.isfinite(side) and side > 0 for side in spacing):
        raise ValueError(f"spacing must be {predicted.ndim} positive lengths, got {tuple(spacing)}")
    if not (predicted.any() and target.any()):
        both_are_empty = not (predicted.any() or target.any())
        diagonal = math.hypot(*(length * side for length, side in zip(predicted.shape, spacing, strict=True)))
        return SurfaceDistances(0.0, 0.0) if both_are_empty else SurfaceDistances(diagonal, diagonal)
    # Nothing lies outside of the box around both.
    box = tuple(slice(places.min(), places.max() + 1) for places in (predicted | target).nonzero())
    there, back = (
        _distances_to(one, other, spacing)
        for one, other in ((predicted[box], target[box]), (target[box], predicted[box]))
    )
    average = float(np.concatenate([there, back]).mean())
    return SurfaceDistances(average, float(max(np.percentile(there, 95), np.percentile(back, 95))))


def _distances_to(mask: np.ndarray, other: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Distances from the surface of a mask to that of another."""
    from scipy.ndimage import distance_transform_edt

    distances: Any = distance_transform_edt(~_surface(other), sampling=spacing)
    return distances[_surface(mask)]


def _surface(mask: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_erosion

    return mask & ~binary_erosion(mask)
