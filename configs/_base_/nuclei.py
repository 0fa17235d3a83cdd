"""376 training and 81 validation images of cell nuclei, 256 to 360 pixels: fluorescence and stained tissue.

Folders: ``$GATEDVISION_DATA/dsb2018_nuclei/images/{train,val}/*.{png,jpg}`` and, of the same names,
``labels/{train,val}/*.png`` with 0 for the background and 1 for a nucleus (``GATEDVISION_DATA`` is ``data`` when
unset). Much of the fluorescence is nearly black, so each image is scaled between its percentiles.
"""

from albumentations import ColorJitter, RandomRotate90
from mmengine.dataset import DefaultSampler

from gatedvision.data import MedicalImageFolder, RandomPatch, collate_label_maps
from gatedvision.metrics import MedicalMetrics

train_pipeline = [
    dict(type=RandomRotate90, p=1.0),
    dict(type=ColorJitter, brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(-0.05, 0.05), p=0.8),
]

train_dataloader = dict(
    dataset=dict(
        type=MedicalImageFolder,
        images="$GATEDVISION_DATA/dsb2018_nuclei/images/train",
        labels="$GATEDVISION_DATA/dsb2018_nuclei/labels/train",
        classes=("background", "nucleus"),
        intensity=dict(mode="percentile", percentiles=(0.5, 99.5)),
        transforms=train_pipeline,
        patch=dict(type=RandomPatch, size=(256, 256), foreground=0.5, flip=0.5, rotation=45, scale=(0.7, 1.4)),
    ),
    sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=collate_label_maps),
    batch_size=16,
    drop_last=True,
    num_workers=12,
    persistent_workers=True,
    pin_memory=True,
)
val_dataloader = dict(
    dataset=dict(
        type=MedicalImageFolder,
        images="$GATEDVISION_DATA/dsb2018_nuclei/images/val",
        labels="$GATEDVISION_DATA/dsb2018_nuclei/labels/val",
        classes=("background", "nucleus"),
        intensity=dict(mode="percentile", percentiles=(0.5, 99.5)),
    ),
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_label_maps),
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    pin_memory=True,
)
val_evaluator = dict(type=MedicalMetrics, distances=False, per_class=False)
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = dict(type=MedicalMetrics)
test_cfg = dict()
