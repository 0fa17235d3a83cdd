"""UPerNet on HorNet-T 7x7, Cityscapes, evaluated in windows of whole images.

Nothing is published for it; the schedule is that of ADE20K: 16 windows of 512 x 1024 pixels a step, 160,000
iterations.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/hornet/hornet_tiny_7x7_upernet_cityscapes.py``
"""

from mmengine.config import read_base

from gatedvision.heads import FCNHead, UPerHead
from gatedvision.tasks import Segmentation

with read_base():
    from .._base_.cityscapes import *
    from .._base_.segmentation_160k import *

model = dict(
    type=Segmentation,
    backbone=dict(model_name="hornet_tiny_7x7.in1k", pretrained=True, drop_path_rate=0.4),
    num_classes=19,
    head=dict(type=UPerHead, dim=512),
    auxiliary_head=dict(type=FCNHead, index=2, dim=256),
    norm_maps=True,
    inference=dict(crop=1024, stride=683),
)
train_cfg.update(max_epochs=864, val_interval=50)
optim_wrapper.optimizer.weight_decay = 0.05
# Published is a factor of 0.9 a stage, the last of them 3 below the heads.
optim_wrapper.paramwise_cfg = dict(layer_decay=0.9, by_stage=True, backbone_rate=0.9**2)
