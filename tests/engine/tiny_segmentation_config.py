"""A segmentation run of seconds: batch norms, dropout, drop path, averaging, augmentation, windows; on shapes."""

# ruff: noqa: F403, F405
# pyright: reportUnboundVariable=false
from mmengine.config import read_base

with read_base():
    from ...configs._base_.segmentation_small import *
    from ...configs._base_.shapes_segmentation import *

from gatedvision.data import photometric_distortion
from gatedvision.heads import FCNHead, UPerHead
from gatedvision.tasks import Segmentation

model = dict(
    type=Segmentation,
    backbone=dict(model_name="hornet_tiny_7x7", dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), drop_path_rate=0.2),
    num_classes=4,
    head=dict(type=UPerHead, dim=8),
    auxiliary_head=dict(type=FCNHead, dim=8),
    inference=dict(crop=32, stride=16),
)
train_pipeline[0].update(height=32, width=32)
train_dataloader.dataset.update(length=10, size=40, transforms=[*train_pipeline, dict(type=photometric_distortion)])
train_dataloader.update(batch_size=2)
val_dataloader.dataset.update(length=5, size=40)
val_dataloader.update(batch_size=1)
test_dataloader = val_dataloader
train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
optim_wrapper.paramwise_cfg = dict(layer_decay=0.9)
param_scheduler[0].end = 3
custom_hooks[0].momentum = 0.1
custom_hooks[1].update(interval=2, images=3)
