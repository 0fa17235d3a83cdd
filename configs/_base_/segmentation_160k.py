"""The published schedule of UPerNet on ADE20K: 160,000 iterations of 16 images, AdamW, a rate that falls linearly to 0.

They are 127 epochs of the 20,210 images, 401 iterations more. Learning rates hold for a total batch of 16 and are
scaled to the real one.
"""

from mmengine.config import read_base
from mmengine.optim import LinearLR, PolyLR
from torch.optim import AdamW

from gatedvision.engine import ShowPredictions

with read_base():
    from .default_runtime import *

default_hooks.checkpoint.save_best = "mIoU"
train_cfg = dict(by_epoch=True, max_epochs=127, val_interval=10)
auto_scale_lr = dict(enable=True, base_batch_size=16)
optim_wrapper = dict(optimizer=dict(type=AdamW, fused=True, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01))
# The warm-up counts iterations, and multiplies what the other gives from the start.
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-6, by_epoch=False, end=1500),
    dict(type=PolyLR, power=1.0, eta_min=0.0, convert_to_iter_based=True),
]
custom_hooks = [dict(type=ShowPredictions, interval=10, images=8)]
