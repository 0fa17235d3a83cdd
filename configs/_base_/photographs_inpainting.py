"""Crops of photographs that scikit-image ships, with generated holes: no download, no folder."""

from albumentations import HorizontalFlip
from mmengine.dataset import DefaultSampler

from gatedvision.data import FreeFormMask, InpaintingPhotographs, collate_inpainting
from gatedvision.metrics import InpaintingMetrics

train_pipeline = [dict(type=HorizontalFlip, p=0.5)]

train_dataloader = dict(
    dataset=dict(
        type=InpaintingPhotographs,
        split="train",
        length=192,
        size=64,
        masks=dict(type=FreeFormMask, rectangle=0, strokes=(1, 8), brush=(8, 28), area=(0.01, 0.5)),
        transforms=train_pipeline,
    ),
    sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=collate_inpainting),
    batch_size=8,
    drop_last=True,
    num_workers=0,
)
val_dataloader = dict(
    dataset=dict(type=InpaintingPhotographs, split="val", length=30, size=64),
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_inpainting),
    batch_size=10,
    num_workers=0,
)
val_evaluator = dict(type=InpaintingMetrics)
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()
