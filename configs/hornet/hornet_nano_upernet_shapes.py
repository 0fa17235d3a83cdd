"""UPerNet on a nano HorNet, on generated shapes of 96 x 96 pixels: two minutes on two CPU cores, no download.

A check of the whole path: so short a run finds the shapes, and hardly tells one kind from another (mIoU 38 %).
Command: ``python tools/train.py configs/hornet/hornet_nano_upernet_shapes.py``
"""

from mmengine.config import read_base

from gatedvision.heads import FCNHead, UPerHead
from gatedvision.tasks import Segmentation

with read_base():
    from .._base_.segmentation_small import *
    from .._base_.shapes_segmentation import *

model = dict(
    type=Segmentation,
    backbone=dict(model_name="hornet_tiny_7x7", dims=(16, 32, 64, 128), depths=(1, 1, 2, 1), layer_scale=1.0),
    num_classes=4,
    head=dict(type=UPerHead, dim=32),
    auxiliary_head=dict(type=FCNHead, index=2, dim=32),
    norm_maps=True,
    inference=dict(crop=64, stride=32),
)
train_cfg.update(max_epochs=25)
optim_wrapper.optimizer.lr = 4e-3
default_hooks.logger.interval = 16
