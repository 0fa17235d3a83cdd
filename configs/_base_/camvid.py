"""CamVid's eleven classes: 367 training, 101 validation and up to 233 test frames of 480 x 360 pixels.

Folders: ``$GATEDVISION_DATA/camvid11/images/{train,val,test}/*.jpg`` (or ``.png``) and, of the same names,
``labels/{train,val,test}/*.png`` (``GATEDVISION_DATA`` is ``data`` when unset). In the files, 11 is unlabelled.
"""

from albumentations import HorizontalFlip, PadIfNeeded, RandomScale
from mmengine.dataset import DefaultSampler

from gatedvision.data import (
    RandomLabelCrop,
    SegmentationFolder,
    collate_label_maps,
    photometric_distortion,
    segmentation_classes,
)
from gatedvision.metrics import SegmentationMetrics

# What is padded has the mean colour, and no label.
train_pipeline = [
    dict(type=RandomScale, scale_limit=(-0.5, 1.0), p=1.0),
    dict(type=RandomLabelCrop, height=352, width=480, max_share=0.75),
    dict(type=HorizontalFlip, p=0.5),
    dict(type=photometric_distortion),
    dict(type=PadIfNeeded, min_height=352, min_width=480, position="top_left", fill=(124, 116, 104), fill_mask=255),
]

train_dataloader = dict(
    dataset=dict(
        type=SegmentationFolder,
        images="$GATEDVISION_DATA/camvid11/images/train",
        labels="$GATEDVISION_DATA/camvid11/labels/train",
        classes=segmentation_classes.CAMVID,
        ignored_ids=(11,),
        transforms=train_pipeline,
    ),
    sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=collate_label_maps),
    batch_size=8,
    drop_last=True,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
)
val_dataloader = dict(
    dataset=dict(
        type=SegmentationFolder,
        images="$GATEDVISION_DATA/camvid11/images/val",
        labels="$GATEDVISION_DATA/camvid11/labels/val",
        classes=segmentation_classes.CAMVID,
        ignored_ids=(11,),
    ),
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_label_maps),
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    pin_memory=True,
)
val_evaluator = dict(type=SegmentationMetrics)
val_cfg = dict()
test_dataloader = dict(
    dataset=dict(
        type=SegmentationFolder,
        images="$GATEDVISION_DATA/camvid11/images/test",
        labels="$GATEDVISION_DATA/camvid11/labels/test",
        classes=segmentation_classes.CAMVID,
        ignored_ids=(11,),
    ),
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_label_maps),
    batch_size=4,
    num_workers=2,
    pin_memory=True,
)
test_evaluator = dict(type=SegmentationMetrics, per_class=True)
test_cfg = dict()
