"""A nano Attention U-Net on generated images of 64 x 64 pixels: ten seconds on one CPU core, no download.

One kind of organ among noise and clutter, by sigmoid.
Command: ``python tools/train.py configs/attention_unet/attention_unet_nano_organs.py``
"""

from mmengine.config import read_base

from gatedvision.tasks import MedicalSegmentation

with read_base():
    from .._base_.medical_small import *
    from .._base_.organs import *

model = dict(
    type=MedicalSegmentation,
    network=dict(model_name="attention_unet", in_chans=1, dims=(8, 16, 32)),
    num_classes=1,
    losses=dict(dice=1.0, cross_entropy=1.0),
    inference=dict(size=(64, 64)),
)
train_dataloader.dataset.update(
    size=(64, 64), kinds=1, patch=dict(type=RandomPatch, size=(64, 64), rotation=15, scale=(0.9, 1.1), flip=0.5)
)
train_dataloader.update(batch_size=4)
val_dataloader.dataset.update(size=(64, 64), kinds=1)
test_dataloader = val_dataloader
train_cfg.update(max_epochs=5, val_interval=5)
optim_wrapper.optimizer.lr = 5e-3
param_scheduler[0].end = 10
custom_hooks[1].interval = 5
default_hooks.logger.interval = 12
