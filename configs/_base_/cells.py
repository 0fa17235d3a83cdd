"""Blood cells (BCCD): 205 training and 87 validation images of 640 x 480 pixels, boxes of three kinds of cells.

Files: ``$GATEDVISION_DATA/bccd_cells/annotations/instances_{train,val}.json`` and
``$GATEDVISION_DATA/bccd_cells/images/{train,val}/*.jpg`` (``GATEDVISION_DATA`` is ``data`` when unset). Cells have no
right way up, so images are turned too. There are no masks.
"""

from albumentations import D4, ColorJitter, RandomSizedBBoxSafeCrop
from mmengine.dataset import DefaultSampler

from gatedvision.data import CocoDetection, collate_detections
from gatedvision.metrics import CocoMetrics

train_pipeline = [
    dict(type=D4, p=1.0),
    dict(type=RandomSizedBBoxSafeCrop, height=480, width=640, p=0.3),
    dict(type=ColorJitter, brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(-0.02, 0.02), p=0.5),
]

train_dataloader = dict(
    dataset=dict(
        type=CocoDetection,
        annotations="$GATEDVISION_DATA/bccd_cells/annotations/instances_train.json",
        images="$GATEDVISION_DATA/bccd_cells/images/train",
        classes=("RBC", "WBC", "Platelets"),
        transforms=train_pipeline,
    ),
    sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=collate_detections),
    batch_size=8,
    drop_last=True,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
)
val_dataloader = dict(
    dataset=dict(
        type=CocoDetection,
        annotations="$GATEDVISION_DATA/bccd_cells/annotations/instances_val.json",
        images="$GATEDVISION_DATA/bccd_cells/images/val",
        classes=("RBC", "WBC", "Platelets"),
    ),
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detections),
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
)
val_evaluator = dict(type=CocoMetrics, iou_types=("bbox",), per_class=True)
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()
