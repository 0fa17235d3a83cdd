"""ADE20K's 150 classes, windows of 512 pixels, with the augmentation of the published recipes.

Folders: ``$GATEDVISION_DATA/ADEChallengeData2016/images/{training,validation}/*.jpg`` and, of the same names,
``annotations/{training,validation}/*.png`` (``GATEDVISION_DATA`` is ``data`` when unset). In the files, 0 is everything
else, which does not count.
"""

from albumentations import HorizontalFlip, PadIfNeeded, SmallestMaxSize
from mmengine.dataset import DefaultSampler

from gatedvision.data import (
    RandomLabelCrop,
    SegmentationFolder,
    collate_label_maps,
    photometric_distortion,
    segmentation_classes,
)
from gatedvision.metrics import SegmentationMetrics

# The short side is 0.5 to 2 times the window, in steps of 16 pixels. What is padded has the mean colour, and no label.
train_pipeline = [
    dict(type=SmallestMaxSize, max_size=list(range(256, 1025, 16))),
    dict(type=RandomLabelCrop, height=512, width=512, max_share=0.75),
    dict(type=HorizontalFlip, p=0.5),
    dict(type=photometric_distortion),
    dict(type=PadIfNeeded, min_height=512, min_width=512, position="top_left", fill=(124, 116, 104), fill_mask=255),
]

train_dataloader = dict(
    dataset=dict(
        type=SegmentationFolder,
        images="$GATEDVISION_DATA/ADEChallengeData2016/images/training",
        labels="$GATEDVISION_DATA/ADEChallengeData2016/annotations/training",
        classes=segmentation_classes.ADE20K,
        label_ids=tuple(range(1, 151)),
        ignored_ids=(0,),
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
        images="$GATEDVISION_DATA/ADEChallengeData2016/images/validation",
        labels="$GATEDVISION_DATA/ADEChallengeData2016/annotations/validation",
        classes=segmentation_classes.ADE20K,
        label_ids=tuple(range(1, 151)),
        ignored_ids=(0,),
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
