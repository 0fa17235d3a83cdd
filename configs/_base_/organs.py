"""Generated scans of three kinds of organs, 32 x 32 x 32 voxels: no download, no folder."""

from mmengine.dataset import DefaultSampler

from gatedvision.data import GeneratedOrgans, RandomPatch, collate_label_maps
from gatedvision.metrics import MedicalMetrics

train_dataloader = dict(
    dataset=dict(
        type=GeneratedOrgans,
        split="train",
        length=48,
        size=(32, 32, 32),
        patch=dict(type=RandomPatch, size=(32, 32, 32), rotation=15, scale=(0.9, 1.1), flip=(0.0, 0.0, 0.5)),
    ),
    sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=collate_label_maps),
    batch_size=2,
    drop_last=True,
    num_workers=0,
)
val_dataloader = dict(
    dataset=dict(type=GeneratedOrgans, split="val", length=12, size=(32, 32, 32)),
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_label_maps),
    batch_size=4,
    num_workers=0,
)
val_evaluator = dict(type=MedicalMetrics)
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()
