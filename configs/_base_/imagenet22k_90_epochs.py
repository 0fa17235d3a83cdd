"""HorNet's pre-training on ImageNet-22K: 90 epochs of AdamW, 5 of them warm-up from nearly nothing, then a cosine.

Folders: ``$GATEDVISION_DATA/imagenet22k/{train,val}/<wnid>/*.JPEG`` (``GATEDVISION_DATA`` is ``data`` when unset). The
learning rate holds for a total batch of 4,096 and is scaled to the real one.
"""

from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR
from torch.optim import AdamW

with read_base():
    from .imagenet_224 import *

train_dataloader.update(batch_size=64)
train_dataloader.dataset.root = "$GATEDVISION_DATA/imagenet22k"
val_dataloader.dataset.root = "$GATEDVISION_DATA/imagenet22k"
test_dataloader = val_dataloader

train_cfg = dict(by_epoch=True, max_epochs=90)
auto_scale_lr = dict(enable=True, base_batch_size=4096)
optim_wrapper = dict(
    optimizer=dict(type=AdamW, fused=True, lr=4e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1),
    clip_grad=dict(max_norm=5.0),
    accumulative_counts=2,
)
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-6, end=5, convert_to_iter_based=True),
    dict(type=CosineAnnealingLR, eta_min_ratio=1e-6 / 4e-3, begin=5, convert_to_iter_based=True),
]
