import contextlib
import copy
import io

import pytest
import torch

pytest.importorskip("faster_coco_eval")

from gatedvision.data import CocoAnnotations
from gatedvision.data.coco_masks import decode_masks
from gatedvision.metrics import CocoMetrics
from gatedvision.metrics.coco import _to_coco, _to_truth

NAMES = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")


def make_annotations(num_images: int = 12) -> CocoAnnotations:
    """Boxes of all sizes in images of 160 x 120 pixels, of four classes, every fifth of them a crowd."""
    generator = torch.Generator().manual_seed(0)
    annotations = []
    for image_id in range(num_images):
        # The last image is empty.
        for _ in range(0 if image_id == num_images - 1 else 6):
            left, top, width, height = (torch.rand(4, generator=generator) * torch.tensor([80, 60, 70, 50])).tolist()
            right, bottom = left + width + 4, top + height + 4
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image_id,
                    "category_id": 10 + len(annotations) % 4,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": int(len(annotations) % 5 == 4),
                    "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
                }
            )
    images = [{"id": number, "file_name": "", "width": 160, "height": 120} for number in range(num_images)]
    categories = [{"id": 10 + label, "name": f"class {label}"} for label in range(4)]
    return CocoAnnotations({"images": images, "annotations": annotations, "categories": categories})


def detect(annotations: CocoAnnotations, noise: float, seed: int = 0) -> list[dict]:
    """What is there, or what is there and moved, doubled, mislabelled and scored with ties."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for index, image in enumerate(annotations.images):
        objects = [item for item in annotations.objects(index) if noise or not item.is_crowd] * (2 if noise else 1)
        boxes = torch.tensor([item.bbox for item in objects]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes += noise * torch.randn(boxes.shape, generator=generator)
        labels = torch.tensor([item.label for item in objects], dtype=torch.int64)
        scores = torch.ones(len(boxes))
        masks = torch.from_numpy(decode_masks([item.segmentation for item in objects], image, "these")).bool()
        if noise:
            labels = torch.where(torch.rand(len(labels), generator=generator) < 0.1, 3, labels)
            scores = (8 * torch.rand(len(boxes), generator=generator)).round() / 8
            masks &= torch.rand(masks.shape, generator=generator) < 0.9
        samples.append({"boxes": boxes, "scores": scores, "labels": labels, "masks": masks})
    return samples


def metric(annotations: CocoAnnotations, **options) -> CocoMetrics:
    metric = CocoMetrics(**options)
    metric.dataset_meta = {"classes": annotations.classes}
    return metric


def batch(annotations: CocoAnnotations) -> dict:
    """What the data loader gives beside the detections."""
    return {
        "inputs": [torch.zeros(3, image.height, image.width) for image in annotations.images],
        "targets": [
            {"image_id": image.id, "objects": annotations.objects(index)}
            for index, image in enumerate(annotations.images)
        ],
    }


def test_ground_truth_fed_back_is_perfect():
    annotations = make_annotations()
    coco = metric(annotations, iou_types=("bbox", "segm"), per_class=True)
    coco.process(batch(annotations), detect(annotations, noise=0.0))
    metrics = coco.evaluate(len(annotations.images))
    names = {f"coco/{kind}_{name}" for kind in ("bbox", "segm") for name in NAMES}
    assert names <= metrics.keys() and "coco/bbox_AP/class 3" in metrics
    for name, value in metrics.items():
        # All boxes are smaller than 96 x 96 pixels.
        assert value == (-1.0 if name.endswith("_l") else pytest.approx(1.0, abs=1e-9)), name


def test_noisy_detections_get_what_pycocotools_gives_them():
    pycocotools_coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    annotations = make_annotations()
    coco = metric(annotations, iou_types=("bbox", "segm"))
    coco.process(batch(annotations), detect(annotations, noise=3.0))
    ours = coco.compute_metrics(coco.results)
    for kind in ("bbox", "segm"):
        with contextlib.redirect_stdout(io.StringIO()):
            truth = pycocotools_coco.COCO()
            truth.dataset = copy.deepcopy(_to_truth(coco.results, annotations.classes))
            truth.createIndex()
            evaluation = COCOeval(truth, truth.loadRes(_to_coco(coco.results, kind)), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        for name, expected in zip(NAMES, evaluation.stats, strict=False):
            assert ours[f"{kind}_{name}"] == pytest.approx(expected, abs=1e-6), (kind, name)
        assert 0.05 < ours[f"{kind}_mAP"] < 0.95, "too easy or too hard to tell anything"


def test_neither_batches_nor_their_order_matter():
    annotations = make_annotations()
    samples = detect(annotations, noise=3.0)
    whole, parts = metric(annotations), metric(annotations)
    given = batch(annotations)
    whole.process(given, samples)
    for image, target, sample in reversed(list(zip(given["inputs"], given["targets"], samples, strict=True))):
        parts.process({"inputs": [image], "targets": [target]}, [sample])
    assert whole.compute_metrics(whole.results) == parts.compute_metrics(parts.results)


def test_detections_in_a_crowd_do_not_count():
    content = {
        "images": [{"id": 1, "file_name": "", "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 20], "area": 400, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [40, 40, 60, 60], "area": 3600, "iscrowd": 1},
        ],
    }
    sample = {
        "image_id": 1,
        "boxes": torch.tensor([[50.0, 50, 70, 70], [60, 60, 90, 90], [0, 0, 20, 20]]),
        "scores": torch.tensor([0.9, 0.8, 0.7]),
        "labels": torch.tensor([0, 0, 0]),
    }
    values = []
    for is_crowd in (1, 0):
        content["annotations"][1]["iscrowd"] = is_crowd
        annotations = CocoAnnotations(content)
        coco = metric(annotations)
        coco.process(batch(annotations), [sample])
        values.append(coco.compute_metrics(coco.results)["bbox_mAP_50"])
    assert values[0] == pytest.approx(1.0) and values[1] < 0.5


def test_nothing_found():
    annotations = make_annotations()
    coco = metric(annotations, iou_types=("bbox", "segm"))
    empty = {
        "boxes": torch.zeros(0, 4),
        "scores": torch.zeros(0),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, 120, 160, dtype=torch.bool),
    }
    coco.process(batch(annotations), [empty for _ in annotations.images])
    metrics = coco.compute_metrics(coco.results)
    assert metrics["bbox_mAP"] == metrics["segm_mAP"] == 0.0


def test_bad_calls_are_named():
    with pytest.raises(ValueError, match=r"iou_types must hold 'bbox', 'segm' or both, got \('boxes',\)"):
        CocoMetrics(iou_types=("boxes",))
    with pytest.raises(ValueError, match="no image was evaluated"):
        metric(make_annotations()).compute_metrics([])
    annotations = make_annotations(num_images=2)
    samples = [{name: x for name, x in sample.items() if name != "masks"} for sample in detect(annotations, 0.0)]
    with pytest.raises(ValueError, match="finds no masks"):
        metric(annotations, iou_types=("segm",)).process(batch(annotations), samples)
    targets = [{"image_id": 0}, {"image_id": 1}]
    with pytest.raises(ValueError, match="need targets with objects: evaluate a CocoDetection without transforms"):
        metric(annotations).process({**batch(annotations), "targets": targets}, samples)


def test_classes_without_names_are_numbers():
    annotations = make_annotations()
    coco = CocoMetrics(per_class=True)
    coco.process(batch(annotations), detect(annotations, noise=0.0))
    metrics = coco.compute_metrics(coco.results)
    assert metrics["bbox_mAP"] == pytest.approx(1.0) and metrics["bbox_AP/3"] == pytest.approx(1.0)


def test_absence_of_the_evaluator_is_said_at_once(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faster_coco_eval.core", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'gatedvision\[detection\]'"):
        CocoMetrics()
