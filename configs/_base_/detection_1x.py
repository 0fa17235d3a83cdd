"""The 1x schedule of detection on COCO: 12 epochs of AdamW, the rate a tenth of itself after the 8th and the 11th.

Learning rates hold for a total batch of 16 images and are scaled to the real one.
"""

from mmengine.config import read_base
from mmengine.optim import LinearLR, MultiStepLR
from torch.optim import AdamW

with read_base():
    from .default_runtime import *

default_hooks.checkpoint.save_best = "coco/bbox_mAP"
train_cfg = dict(by_epoch=True, max_epochs=12)
auto_scale_lr = dict(enable=True, base_batch_size=16)
optim_wrapper = dict(optimizer=dict(type=AdamW, fused=True, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05))
# The warm-up counts iterations, the steps epochs.
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-3, by_epoch=False, end=500),
    dict(type=MultiStepLR, milestones=[8, 11], gamma=0.1),
]
