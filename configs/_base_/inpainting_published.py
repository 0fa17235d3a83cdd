"""DeepFill v2's schedule: Adam for generator and discriminator at one rate without end, no decay, no averaging.

The published program has no last step; recipes on this base stop where other reports do.
"""

from mmengine.config import read_base
from torch.optim import Adam

with read_base():
    from .default_runtime import *

optim_wrapper = dict(
    generator=dict(optimizer=dict(type=Adam, fused=True, lr=1e-4, betas=(0.5, 0.999))),
    discriminator=dict(optimizer=dict(type=Adam, fused=True, lr=1e-4, betas=(0.5, 0.999))),
)
# The program calls 4,000 steps an epoch.
default_hooks.checkpoint.update(by_epoch=False, interval=4000, save_best="SSIM")
