"""Cityscapes' 19 classes, windows of 512 x 1024 pixels of the 1024 x 2048 pixels of an image.

Folders: ``$GATEDVISION_DATA/cityscapes/leftImg8bit/{train,val}/<city>/*_leftImg8bit.png`` and
``gtFine/{train,val}/<city>/*_gtFine_labelIds.png``, as they are distributed (``GATEDVISION_DATA`` is ``data`` when
unset).
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
    dict(type=RandomLabelCrop, height=512, width=1024, max_share=0.75),
    dict(type=HorizontalFlip, p=0.5),
    dict(type=photometric_distortion),
    dict(type=PadIfNeeded, min_height=512, min_width=1024, position="top_left", fill=(124, 116, 104), fill_mask=255),
]

train_dataloader = dict(
    dataset=dict(
        type=SegmentationFolder,
        images="$GATEDVISION_DATA/cityscapes/leftImg8bit/train",
        labels="$GATEDVISION_DATA/cityscapes/gtFine/train",
        classes=segmentation_classes.CITYSCAPES,
        label_ids=segmentation_classes.CITYSCAPES_IDS,
        ignored_ids=segmentation_classes.CITYSCAPES_IGNORED_IDS,
        image_suffix="_leftImg8bit.png",
        label_suffix="_gtFine_labelIds.png",
        transforms=train_pipeline,
    ),
    sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=collate_label_maps),
    batch_size=2,
    drop_last=True,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
)
val_dataloader = dict(
    dataset=dict(
        type=SegmentationFolder,
        images="$GATEDVISION_DATA/cityscapes/leftImg8bit/val",
        labels="$GATEDVISION_DATA/cityscapes/gtFine/val",
        classes=segmentation_classes.CITYSCAPES,
        label_ids=segmentation_classes.CITYSCAPES_IDS,
        ignored_ids=segmentation_classes.CITYSCAPES_IGNORED_IDS,
        image_suffix="_leftImg8bit.png",
        label_suffix="_gtFine_labelIds.png",
    ),
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_label_maps),
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
)
val_evaluator = dict(type=SegmentationMetrics)
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = dict(type=SegmentationMetrics, per_class=True)
test_cfg = dict()
