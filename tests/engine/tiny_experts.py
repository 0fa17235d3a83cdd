"""A run of seconds on experts that drop tokens: routing with noise, all losses, clipping, averaging, schedules."""

# ruff: noqa: F403, F405
# pyright: reportUnboundVariable=false
from mmengine.config import read_base

with read_base():
    from .tiny_config import *

from tiny_data import Consecutive

model = dict(
    type=Classification,
    backbone=dict(
        model_name="vmoe_s32_last2_e8",
        img_size=8,
        patch_size=4,
        embed_dim=16,
        depth=4,
        num_heads=2,
        num_classes=4,
        representation_size=0,
        expert_blocks=(1, 3),
        num_experts=4,
        group_images=2,
        priority="batch",
        capacity_factor=0.75,
        multiple_of=1,
        # Slots for all, so that how images are grouped is of no account.
        eval_capacity_factor=2.0,
        gshard_weight=0.01,
        identical_experts=False,
    ),
)
# 10 steps in two epochs.
train_dataloader.update(batch_size=8)
train_dataloader.dataset.update(length=40)
train_dataloader.sampler = dict(type=Consecutive, batch_size=8)
train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
param_scheduler[1].end = 2
# Below the norm of the first gradients.
optim_wrapper.clip_grad.max_norm = 0.2
