"""Abdominal CT with pancreas, kidney and spleen, as in CT-150: volumes at 2 mm, patches of 160 x 160 x 96 voxels.

Folders: ``$GATEDVISION_DATA/ct150/images/{train,val}/*.nii.gz`` and, of the same names, ``labels/{train,val}`` with 0
for the background, 1 pancreas, 2 kidney, 3 spleen (``GATEDVISION_DATA`` is ``data`` when unset). NIfTI is read by
nibabel: ``pip install 'gatedvision[medical]'``.
"""

from mmengine.dataset import DefaultSampler

from gatedvision.data import RandomPatch, VolumeFolder, collate_label_maps
from gatedvision.metrics import MedicalMetrics

train_dataloader = dict(
    dataset=dict(
        type=VolumeFolder,
        images="$GATEDVISION_DATA/ct150/images/train",
        labels="$GATEDVISION_DATA/ct150/labels/train",
        classes=("background", "pancreas", "kidney", "spleen"),
        intensity=dict(mode="z_score"),
        resample=2.0,
        patch=dict(type=RandomPatch, size=(160, 160, 96), foreground=0.0, flip=0.5, rotation=15, scale=(0.7, 1.3)),
        keep=True,
    ),
    sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=collate_label_maps),
    batch_size=2,
    drop_last=True,
    # Each keeps its own copy of what it has read.
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
)
val_dataloader = dict(
    dataset=dict(
        type=VolumeFolder,
        images="$GATEDVISION_DATA/ct150/images/val",
        labels="$GATEDVISION_DATA/ct150/labels/val",
        classes=("background", "pancreas", "kidney", "spleen"),
        intensity=dict(mode="z_score"),
        resample=2.0,
    ),
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_label_maps),
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    pin_memory=True,
)
val_evaluator = dict(type=MedicalMetrics, distances=False)
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = dict(type=MedicalMetrics)
test_cfg = dict()
