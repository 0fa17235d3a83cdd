"""COCO's average precision of boxes and masks."""

from collections.abc import Sequence
from typing import Any, Literal

from mmengine.evaluator import BaseMetric

from gatedvision.data.coco_annotations import CocoObject
from gatedvision.data.coco_masks import encode_masks, mask_api

IouType = Literal["bbox", "segm"]
_NAMES = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")


class CocoMetrics(BaseMetric):
    """Average precision by COCO's rules: over IoU thresholds 0.5 to 0.95, up to 100 detections an image.

    Detections that lie in a crowd count neither for nor against. Every image counts once, however the dataset is
    spread over processes. The ground truth comes with the batches, as ``CocoDetection`` gives it.

    Args:
        iou_types: ``"bbox"``, ``"segm"`` or both.
        per_class: report the average precision of each class too.

    Returns (of ``evaluate``):
        ``coco/<type>_mAP``, ``_mAP_50`` and ``_mAP_75`` (one threshold each), ``_mAP_s``, ``_m`` and ``_l`` (objects of
        less than 32 x 32 pixels, up to 96 x 96, and larger), all 0 to 1, or -1 where there is no such object; and
        ``coco/<type>_AP/<class>``.

    Raises:
        ValueError: another type.
        ModuleNotFoundError: faster-coco-eval is not installed.
    """

    default_prefix = "coco"

    def __init__(self, iou_types: Sequence[IouType] = ("bbox",), per_class: bool = False) -> None:
        # "gpu" means: through the process group, whatever its device, and not through files in the current folder.
        super().__init__(collect_device="gpu")
        if not iou_types or set(iou_types) - {"bbox", "segm"}:
            raise ValueError(f"iou_types must hold 'bbox', 'segm' or both, got {tuple(iou_types)}")
        # Rather now than after the first epoch.
        mask_api()
        self.iou_types = tuple(iou_types)
        self.per_class = per_class

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Note the detections of each image of a batch.

        Args:
            data_batch: ``inputs``, images ``[3, H_i, W_i]``, and ``targets`` with their ``image_id`` and the
                ``objects`` in them, crowds too.
            data_samples: for each image ``boxes`` ``[N, 4]`` (left, top, right, bottom), ``scores`` ``[N]``,
                ``labels`` ``[N]`` and, for ``"segm"``, ``masks`` ``[N, H, W]``.

        Raises:
            ValueError: there is no ground truth, or masks are to be evaluated and there are none.
        """
        for image, target, sample in zip(data_batch["inputs"], data_batch["targets"], data_samples, strict=True):
            if "objects" not in target:
                raise ValueError("COCO metrics need targets with objects: evaluate a CocoDetection without transforms")
            boxes = sample["boxes"].double().cpu().numpy()
            boxes[:, 2:] -= boxes[:, :2]
            result = {
                "image_id": target["image_id"],
                "size": tuple(image.shape[-2:]),
                # Plain dictionaries: mmengine turns named tuples into plain ones.
                "objects": [_annotate(item) for item in target["objects"]],
                "boxes": boxes,
                "scores": sample["scores"].double().cpu().numpy(),
                "labels": sample["labels"].cpu().numpy(),
            }
            if "segm" in self.iou_types:
                if "masks" not in sample:
                    raise ValueError("this detector finds no masks; evaluate iou_types=('bbox',)")
                result["masks"] = encode_masks(sample["masks"].cpu().numpy()) if len(boxes) else []
            self.results.append(result)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Compare detections and ground truth.

        Args:
            results: ground truth and detections of each image.

        Returns:
            Metrics by name.

        Raises:
            ValueError: there are no images.
        """
        if not results:
            raise ValueError("average precision of an empty dataset: no image was evaluated")
        # In the order of the images, so that ties are broken alike for any number of processes.
        results = sorted(results, key=lambda result: result["image_id"])
        classes = self._class_names(results)
        truth = _to_truth(results, classes)
        metrics: dict[str, float] = {}
        for iou_type in self.iou_types:
            evaluation = _evaluate(truth, _to_coco(results, iou_type), iou_type)
            metrics |= {f"{iou_type}_{name}": float(x) for name, x in zip(_NAMES, evaluation.stats, strict=False)}
            if self.per_class:
                # Thresholds, recalls, classes, sizes, numbers of detections.
                precision = evaluation.eval["precision"][:, :, :, 0, -1]
                for label, name in enumerate(classes):
                    known = precision[:, :, label][precision[:, :, label] > -1]
                    metrics[f"{iou_type}_AP/{name}"] = float(known.mean()) if known.size else -1.0
        return metrics

    def _class_names(self, results: list[dict[str, Any]]) -> list[str]:
        names = (self.dataset_meta or {}).get("classes")
        if names is not None:
            return list(names)
        labels = [item["category_id"] for result in results for item in result["objects"]]
        return [str(label) for label in range(max(labels, default=0) + 1)]


def _annotate(item: CocoObject) -> dict[str, Any]:
    annotation = {
        "category_id": item.label,
        "bbox": list(item.bbox),
        "area": item.area,
        "iscrowd": int(item.is_crowd),
    }
    return annotation if item.segmentation is None else {**annotation, "segmentation": item.segmentation}


def _to_truth(results: list[dict[str, Any]], classes: Sequence[str]) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for result in results:
        for item in result["objects"]:
            # Evaluators take 0 for "no match".
            annotations.append({**item, "id": len(annotations) + 1, "image_id": result["image_id"]})
    return {
        "images": [{"id": x["image_id"], "height": x["size"][0], "width": x["size"][1]} for x in results],
        "annotations": annotations,
        "categories": [{"id": label, "name": name} for label, name in enumerate(classes)],
    }


def _evaluate(truth: dict[str, Any], detections: list[dict[str, Any]], iou_type: IouType) -> Any:
    from faster_coco_eval import COCO, COCOeval_faster

    # It writes into what it is given.
    coco = COCO({**truth, "annotations": [dict(annotation) for annotation in truth["annotations"]]})
    evaluation = COCOeval_faster(coco, coco.loadRes(detections), iou_type, print_function=lambda *_: None)
    evaluation.run()
    return evaluation


def _to_coco(results: list[dict[str, Any]], iou_type: IouType) -> list[dict[str, Any]]:
    detections = []
    for result in results:
        for place, (score, label) in enumerate(zip(result["scores"].tolist(), result["labels"].tolist(), strict=True)):
            detection = {"image_id": result["image_id"], "category_id": label, "score": score}
            # With its box beside it, a mask would count as large as the box.
            if iou_type == "segm":
                detection["segmentation"] = result["masks"][place]
            else:
                detection["bbox"] = result["boxes"][place].tolist()
            detections.append(detection)
    return detections
