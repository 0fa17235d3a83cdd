"""Generated shapes with masks over photographs that scikit-image ships: no download, no folder."""

from albumentations import HorizontalFlip
from mmengine.dataset import DefaultSampler

from gatedvision.data import ShapesDetection, collate_detections
from gatedvision.metrics import CocoMetrics

train_pipeline = [dict(type=HorizontalFlip, p=0.5)]

train_dataloader = dict(
    dataset=dict(type=ShapesDetection, split="train", length=64, size=96, transforms=train_pipeline, with_masks=True),
    sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=collate_detections),
    batch_size=4,
    drop_last=True,
    num_workers=0,
)
val_dataloader = dict(
    dataset=dict(type=ShapesDetection, split="val", length=16, size=96),
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detections),
    batch_size=4,
    num_workers=0,
)
val_evaluator = dict(type=CocoMetrics, iou_types=("bbox", "segm"))
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()
