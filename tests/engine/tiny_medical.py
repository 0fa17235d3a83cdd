"""A medical run of seconds: volumes, turned patches, batch norms, averaging, windows, distances."""

# ruff: noqa: F403, F405
# pyright: reportUnboundVariable=false
from mmengine.config import read_base

with read_base():
    from ...configs._base_.medical_small import *
    from ...configs._base_.organs import *

from gatedvision.tasks import MedicalSegmentation

model = dict(
    type=MedicalSegmentation,
    network=dict(model_name="attention_unet_3d", in_chans=1, dims=(4, 8, 8)),
    num_classes=4,
    inference=dict(size=(12, 12, 12), batch_size=2),
)
train_dataloader.dataset.update(length=10, size=(16, 16, 16))
train_dataloader.dataset.patch.update(size=(8, 8, 8))
train_dataloader.update(batch_size=2)
# Three volumes for one of two processes, two and a repeated one for the other.
val_dataloader.dataset.update(length=5, size=(16, 16, 17), spacing=(1.0, 1.0, 2.5))
val_dataloader.update(batch_size=1)
test_dataloader = val_dataloader
train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
param_scheduler[0].end = 3
custom_hooks[0].momentum = 0.1
custom_hooks[1].update(interval=2, images=3)
