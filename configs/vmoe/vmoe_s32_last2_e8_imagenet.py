"""V-MoE-S/32 with 8 experts in its last two odd blocks on ImageNet-1K, from scratch as published (arXiv:2106.05974).

Published: top-1 73.1 %, the mean of three runs; 57.0 M parameters; 300 epochs, batches of 8,192. Not repeated here.
Mixup is published for neighbours in a batch, and pairs its first image with its last here.
Precision: float32; --amp bf16 is faster and has not been compared over 300 epochs.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/vmoe/vmoe_s32_last2_e8_imagenet.py --launcher pytorch``
"""

from mmengine.config import read_base

from gatedvision.tasks import Classification

with read_base():
    from .._base_.default_runtime import *
    from .._base_.vmoe_pre_training import *

model = dict(
    type=Classification,
    backbone=dict(
        model_name="vmoe_s32_last2_e8",
        num_classes=1000,
        capacity_factor=1.05,
        eval_capacity_factor=4.0,
        expert_drop_rate=0.2,
    ),
    mixup=dict(mixup_alpha=0.2, prob=1.0),
    sigmoid=True,
)
train_dataloader.update(batch_size=1024)
