"""120 epochs of AdamW for small medical sets: a warm-up of 100 iterations, then a cosine; clipping and EMA."""

from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR
from torch.optim import AdamW

from gatedvision.engine import EMA, ShowPredictions

with read_base():
    from .default_runtime import *

default_hooks.checkpoint.save_best = "Dice"
train_cfg = dict(by_epoch=True, max_epochs=120, val_interval=5)
optim_wrapper = dict(optimizer=dict(type=AdamW, fused=True, lr=1e-3, weight_decay=0.01), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type=LinearLR, start_factor=0.01, by_epoch=False, end=100),
    dict(type=CosineAnnealingLR, eta_min_ratio=0.01, convert_to_iter_based=True),
]
# The average spans the last quarter (1 / gamma) of the run so far, at most 500 (1 / momentum) iterations.
custom_hooks = [dict(type=EMA, momentum=2e-3, gamma=4), dict(type=ShowPredictions, interval=25, images=8)]
