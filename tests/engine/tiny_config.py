"""A run of seconds with everything that makes resuming hard: dropout, mixup, averaging, schedules, augmentation."""

# ruff: noqa: F403
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmengine.optim import CosineAnnealingLR, LinearLR
from torch.optim import AdamW

with read_base():
    from ...configs._base_.default_runtime import *

from tiny_data import TinyImages, collate

from gatedvision.engine import EMA
from gatedvision.metrics import Accuracy
from gatedvision.tasks import Classification

model = dict(
    type=Classification,
    backbone=dict(
        model_name="vit_tiny_patch16_224",
        img_size=8,
        patch_size=4,
        embed_dim=16,
        depth=2,
        num_heads=2,
        num_classes=4,
        drop_path_rate=0.2,
        drop_rate=0.1,
    ),
    mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0),
    label_smoothing=0.1,
)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(type=TinyImages, length=22),
    collate_fn=dict(type=collate),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(type=TinyImages, length=11),
    collate_fn=dict(type=collate),
)
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type=Accuracy)
train_cfg = dict(by_epoch=True, max_epochs=3, val_interval=1)
val_cfg = test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=1e-2, weight_decay=0.05), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type=LinearLR, start_factor=0.1, begin=0, end=1, convert_to_iter_based=True),
    dict(type=CosineAnnealingLR, eta_min_ratio=0.01, begin=1, end=3, convert_to_iter_based=True),
]
custom_hooks = [dict(type=EMA, momentum=0.1)]
auto_scale_lr = dict(enable=False, base_batch_size=8)
