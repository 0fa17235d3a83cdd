"""The published schedule of the CT networks: 1,000 epochs at 1e-4, halved every 250, L2 of 1e-6, no averaging.

The paper trains with Adam, and so does this base. The program was meant to, but never reads the optimizer of its
configuration, and trains with SGD, Nesterov momentum 0.9, at the same rate.
"""

from mmengine.config import read_base
from mmengine.optim import StepLR
from torch.optim import Adam

with read_base():
    from .default_runtime import *

train_cfg = dict(by_epoch=True, max_epochs=1000, val_interval=25)
optim_wrapper = dict(optimizer=dict(type=Adam, fused=True, lr=1e-4, weight_decay=1e-6))
param_scheduler = [dict(type=StepLR, step_size=250, gamma=0.5)]
default_hooks.checkpoint.update(interval=25, save_best="Dice")
