"""Generated shapes as label maps over photographs that scikit-image ships: no download, no folder."""

from albumentations import HorizontalFlip
from mmengine.dataset import DefaultSampler

from gatedvision.data import RandomLabelCrop, ShapesSegmentation, collate_label_maps
from gatedvision.metrics import SegmentationMetrics

train_pipeline = [dict(type=RandomLabelCrop, height=64, width=64), dict(type=HorizontalFlip, p=0.5)]

train_dataloader = dict(
    dataset=dict(type=ShapesSegmentation, split="train", length=128, size=96, transforms=train_pipeline),
    sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=collate_label_maps),
    batch_size=8,
    drop_last=True,
    num_workers=0,
)
val_dataloader = dict(
    dataset=dict(type=ShapesSegmentation, split="val", length=32, size=96),
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_label_maps),
    batch_size=8,
    num_workers=0,
)
val_evaluator = dict(type=SegmentationMetrics)
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = dict(type=SegmentationMetrics, per_class=True)
test_cfg = dict()
