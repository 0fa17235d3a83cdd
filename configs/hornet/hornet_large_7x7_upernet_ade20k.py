"""UPerNet on HorNet-L 7x7, ADE20K at 640 pixels, by the published recipe (arXiv:2207.14284).

Published: mIoU 54.1 %, at several scales and mirrored 54.5 %, 232M parameters; 160,000 iterations, 16 images a step.
Not repeated here.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/hornet/hornet_large_7x7_upernet_ade20k.py``
"""

from mmengine.config import read_base

from gatedvision.heads import FCNHead, UPerHead
from gatedvision.tasks import Segmentation

with read_base():
    from .._base_.ade20k_640 import *
    from .._base_.segmentation_160k import *

model = dict(
    type=Segmentation,
    backbone=dict(model_name="hornet_large_7x7.in22k", pretrained=True, drop_path_rate=0.4),
    num_classes=150,
    head=dict(type=UPerHead, dim=512),
    auxiliary_head=dict(type=FCNHead, index=2, dim=256),
    norm_maps=True,
    inference=dict(short_side=640, long_side=2560, crop=640, stride=426),
)
optim_wrapper.optimizer.weight_decay = 0.05
# Published is a factor of 0.8 a stage, the last of them 9 below the heads.
optim_wrapper.paramwise_cfg = dict(layer_decay=0.8, by_stage=True, backbone_rate=0.8**8)
