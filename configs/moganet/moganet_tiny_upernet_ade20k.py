"""UPerNet on MogaNet-T, ADE20K at 512 pixels, by the published recipe (arXiv:2211.03295).

Published: mIoU 43.7 %, mean accuracy 57.1 %, 33.1M parameters; 160,000 iterations, 16 images a step. Not repeated
here.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/moganet/moganet_tiny_upernet_ade20k.py``
"""

from mmengine.config import read_base

from gatedvision.heads import FCNHead, UPerHead
from gatedvision.tasks import Segmentation

with read_base():
    from .._base_.ade20k_512 import *
    from .._base_.segmentation_160k import *

model = dict(
    type=Segmentation,
    backbone=dict(model_name="moganet_tiny.in1k", pretrained=True, drop_path_rate=0.1),
    num_classes=150,
    head=dict(type=UPerHead, dim=512),
    auxiliary_head=dict(type=FCNHead, index=2, dim=256),
    inference=dict(short_side=512, long_side=2048),
)
