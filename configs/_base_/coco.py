"""COCO 2017 for detection and instance segmentation, images flipped at random.

Files: ``$GATEDVISION_DATA/coco/annotations/instances_{train,val}2017.json`` and
``$GATEDVISION_DATA/coco/{train,val}2017/*.jpg`` (``GATEDVISION_DATA`` is ``data`` when unset). Training leaves out
images without objects. The model resizes: a config with another size sets ``model.min_size`` and ``model.max_size``.
"""

from albumentations import HorizontalFlip
from mmengine.dataset import DefaultSampler

from gatedvision.data import CocoDetection, collate_detections
from gatedvision.metrics import CocoMetrics

train_pipeline = [dict(type=HorizontalFlip, p=0.5)]

train_dataloader = dict(
    dataset=dict(
        type=CocoDetection,
        annotations="$GATEDVISION_DATA/coco/annotations/instances_train2017.json",
        images="$GATEDVISION_DATA/coco/train2017",
        transforms=train_pipeline,
        with_masks=True,
        keep_empty=False,
    ),
    sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=collate_detections),
    batch_size=2,
    drop_last=True,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
)
val_dataloader = dict(
    dataset=dict(
        type=CocoDetection,
        annotations="$GATEDVISION_DATA/coco/annotations/instances_val2017.json",
        images="$GATEDVISION_DATA/coco/val2017",
    ),
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detections),
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
)
val_evaluator = dict(type=CocoMetrics, iou_types=("bbox", "segm"))
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()
