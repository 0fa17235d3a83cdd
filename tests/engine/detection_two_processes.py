"""Under torchrun: evaluate a checkpoint of the tiny detection run in all processes, on detections that are worth it."""

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import torch  # noqa: E402
from communication_threads import communication_threads  # noqa: E402
from torch import Tensor  # noqa: E402

from gatedvision.engine.launch import evaluate  # noqa: E402
from gatedvision.tasks import Detection  # noqa: E402


def predict_noisily(
    model: Detection, images: list[Tensor], targets: list[dict[str, Any]] | None
) -> list[dict[str, Any]]:
    """Find what is there a bit beside it, by a noise that depends on the image alone."""
    predictions = []
    for image, target in zip(images, targets or (), strict=True):
        generator = torch.Generator().manual_seed(target["image_id"])
        boxes = target["boxes"].repeat(2, 1)
        boxes = boxes + torch.randn(boxes.shape, generator=generator)
        masks = torch.zeros(len(boxes), *image.shape[1:], dtype=torch.bool)
        for mask, (left, top, right, bottom) in zip(masks, boxes.round().clamp(min=0).int().tolist(), strict=True):
            mask[top:bottom, left:right] = True
        scores = torch.rand(len(boxes), generator=generator)
        labels = target["labels"].repeat(2)
        predictions.append({"boxes": boxes, "scores": scores, "labels": labels, "masks": masks})
    return predictions


if __name__ == "__main__":
    torch.set_num_threads(1)
    Detection._predict = predict_noisily
    checkpoint, folder = map(Path, sys.argv[1:])
    evaluate(Path(__file__).with_name("tiny_detection.py"), checkpoint, folder, out=folder / "metrics.json")
    assert not communication_threads()
