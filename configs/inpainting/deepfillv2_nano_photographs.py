"""A nano DeepFill v2 on crops of scikit-image's photographs, 64 x 64: seconds on two CPU cores, no download.

A check of the whole path: so short a run learns to fill holes with the colours around them.
Command: ``python tools/train.py configs/inpainting/deepfillv2_nano_photographs.py``
"""

from mmengine.config import read_base

from gatedvision.tasks import Inpainting

with read_base():
    from .._base_.inpainting_small import *
    from .._base_.photographs_inpainting import *

model = dict(
    type=Inpainting,
    generator=dict(model_name="deepfillv2", dim=16),
    discriminator=dict(dims=(16, 32, 64, 64, 64, 64)),
    gan_weight=0.1,
)
train_cfg.update(max_epochs=5)
optim_wrapper.generator.optimizer.lr = 2e-3
param_scheduler[0].end = 10
custom_hooks[1].interval = 5
default_hooks.logger.interval = 12
