"""Semantic FPN on MogaNet-B, ADE20K at 512 pixels, by the published recipe (arXiv:2211.03295).

Published: mIoU 49.3 %, mean accuracy 61.6 %, 47.5M parameters; 80,000 iterations, 32 images a step. Not repeated
here.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/moganet/moganet_base_fpn_ade20k.py``
"""

from mmengine.config import read_base

from gatedvision.heads import FPNHead
from gatedvision.tasks import Segmentation

with read_base():
    from .._base_.ade20k_512 import *
    from .._base_.segmentation_80k import *

model = dict(
    type=Segmentation,
    backbone=dict(model_name="moganet_base.in1k", pretrained=True, drop_path_rate=0.2),
    num_classes=150,
    head=dict(type=FPNHead, pyramid_dim=256, dim=128),
    inference=dict(short_side=512, long_side=2048),
)
train_dataloader.batch_size = 4
