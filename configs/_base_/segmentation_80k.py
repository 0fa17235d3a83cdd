"""The published schedule of Semantic FPN on ADE20K: 80,000 iterations of 32 images, AdamW, power 0.9, no warm-up.

They are 127 epochs of the 20,210 images, 137 iterations more. Learning rates hold for a total batch of 32 and are
scaled to the real one.
"""

from mmengine.config import read_base
from mmengine.optim import PolyLR
from torch.optim import AdamW

from gatedvision.engine import ShowPredictions

with read_base():
    from .default_runtime import *

default_hooks.checkpoint.save_best = "mIoU"
train_cfg = dict(by_epoch=True, max_epochs=127, val_interval=10)
auto_scale_lr = dict(enable=True, base_batch_size=32)
optim_wrapper = dict(optimizer=dict(type=AdamW, fused=True, lr=2e-4, betas=(0.9, 0.999), weight_decay=1e-4))
param_scheduler = [dict(type=PolyLR, power=0.9, eta_min=0.0, convert_to_iter_based=True)]
custom_hooks = [dict(type=ShowPredictions, interval=10, images=8)]
