"""V-MoE-B/16 with 8 experts in every second block on ImageNet-21K, the published pre-training (arXiv:2106.05974).

Published: top-1 on ImageNet-21K is not stated; 301.0 M parameters; 300 epochs, batches of 4,096. Not repeated here.
Folders: ``$GATEDVISION_DATA/imagenet21k/{train,val}/<wnid>/*.JPEG``, the 21,843 classes of the release of autumn 2011.
Precision: float32; --amp bf16 is faster and has not been compared over 300 epochs.
Command: ``torchrun --nnodes=4 --nproc_per_node=8 tools/train.py configs/vmoe/vmoe_b16_every2_e8_imagenet21k.py
--launcher pytorch``
"""

from mmengine.config import read_base

from gatedvision.tasks import Classification

with read_base():
    from .._base_.default_runtime import *
    from .._base_.vmoe_pre_training import *

model = dict(
    type=Classification,
    backbone=dict(model_name="vmoe_b16_every2_e8", num_classes=21843, capacity_factor=1.05, head_bias=-10.0),
    mixup=dict(mixup_alpha=0.5, prob=1.0),
    sigmoid=True,
)
# Magnitudes above 10 are published, too.
train_pipeline.auto_augment = "rand-m20-mmax20-n2-p1"
train_dataloader.dataset.transform = train_pipeline
train_dataloader.dataset.root = "$GATEDVISION_DATA/imagenet21k"
val_dataloader.dataset.root = "$GATEDVISION_DATA/imagenet21k"
test_dataloader = val_dataloader

auto_scale_lr.base_batch_size = 4096
optim_wrapper.optimizer.lr = 8e-4
# 10,000 steps of 3,466 an epoch.
param_scheduler[0].end = 2.885
param_scheduler[1].update(begin=2.885, end_factor=1e-5 / 8e-4)
