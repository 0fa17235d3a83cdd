"""An inpainting run of seconds: two optimizers with schedules, spectral norms, averaging, holes and flips at random."""

# ruff: noqa: F403, F405
# pyright: reportUnboundVariable=false
from mmengine.config import read_base

with read_base():
    from ...configs._base_.inpainting_small import *
    from ...configs._base_.photographs_inpainting import *

from gatedvision.tasks import Inpainting

model = dict(
    type=Inpainting,
    generator=dict(model_name="deepfillv2", dim=8),
    discriminator=dict(dims=(8, 8, 8, 8, 8, 8)),
    gan_weight=0.1,
)
train_dataloader.dataset.update(length=10, size=32)
train_dataloader.update(batch_size=2)
# Three images for one of two processes, two and a repeated one for the other.
val_dataloader.dataset.update(length=5, size=32)
val_dataloader.update(batch_size=1)
test_dataloader = val_dataloader
train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
optim_wrapper.generator.clip_grad = dict(max_norm=1.0)
param_scheduler[0].end = 3
custom_hooks[0].momentum = 0.1
custom_hooks[1].update(interval=2, images=3)
