"""40 epochs of Adam for small sets of images: a warm-up of 100 iterations, then a cosine; EMA of the generator."""

from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR
from torch.optim import Adam

from gatedvision.engine import EMA, ShowPredictions

with read_base():
    from .default_runtime import *

default_hooks.checkpoint.save_best = "SSIM"
train_cfg = dict(by_epoch=True, max_epochs=40, val_interval=5)
optim_wrapper = dict(
    generator=dict(optimizer=dict(type=Adam, fused=True, lr=2e-4, betas=(0.5, 0.999))),
    discriminator=dict(optimizer=dict(type=Adam, fused=True, lr=2e-4, betas=(0.5, 0.999))),
)
# Of both optimizers.
param_scheduler = [
    dict(type=LinearLR, start_factor=0.01, by_epoch=False, end=100),
    dict(type=CosineAnnealingLR, eta_min_ratio=0.01, convert_to_iter_based=True),
]
# The average spans the last quarter (1 / gamma) of the run so far, at most 1,000 (1 / momentum) iterations.
custom_hooks = [
    dict(type=EMA, momentum=1e-3, gamma=4, only="generator"),
    dict(type=ShowPredictions, interval=10, images=8),
]
