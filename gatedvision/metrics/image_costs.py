"""What images cost a network whose work depends on the image."""

import math
from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric


class ImageCosts(BaseMetric):
    """Means over the images of what the predictions carry as ``costs``.

    Every image counts once, however the dataset is spread over processes.

    Returns (of ``evaluate``):
        For MSViT ``fine_share``, the share of fine regions, 0 to 1, and ``GMACs``, billions of multiply-adds: of an
        image that is predicted in several views or windows the mean and the sum over them.
    """

    default_prefix = ""

    def __init__(self) -> None:
        # "gpu" means: through the process group, whatever its device, and not through files in the current folder.
        super().__init__(collect_device="gpu")

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Note the costs of each image of a batch.

        Args:
            data_batch: unused.
            data_samples: predictions for a batch or an image, each with ``costs``: by name a number for each image.

        Raises:
            ValueError: there are none.
        """
        for prediction in data_samples:
            if not prediction.get("costs"):
                raise ValueError("ImageCosts needs a backbone that tells what each image costs, such as msvit_small")
            names, values = prediction["costs"].keys(), prediction["costs"].values()
            rows = zip(*(value.flatten().tolist() for value in values), strict=True)
            self.results.extend(dict(zip(names, row, strict=True)) for row in rows)

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        """Average over the images.

        Args:
            results: the costs of each image.

        Returns:
            Means by name.

        Raises:
            ValueError: there are no images.
        """
        if not results:
            raise ValueError("costs of an empty dataset: no image was evaluated")
        # fsum rounds once, so the order in which the processes deliver their images does not show.
        return {name: math.fsum(result[name] for result in results) / len(results) for name in results[0]}
