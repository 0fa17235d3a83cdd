"""UPerNet on ViG-H-B, ADE20K at 512 pixels (arXiv:2405.18425).

Published: figures only, without the recipe. This is the one of VMamba, the code base that ViG-H was written on:
160,000 iterations, 16 images a step; drop path as in classification. Not repeated here.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/vig/vig_h_b_upernet_ade20k.py``
"""

from mmengine.config import read_base

from gatedvision.heads import FCNHead, UPerHead
from gatedvision.tasks import Segmentation

with read_base():
    from .._base_.ade20k_512 import *
    from .._base_.segmentation_160k import *

model = dict(
    type=Segmentation,
    backbone=dict(model_name="vig_h_b.in1k", pretrained=True, drop_path_rate=0.6),
    num_classes=150,
    head=dict(type=UPerHead, dim=512),
    auxiliary_head=dict(type=FCNHead, index=2, dim=256),
    norm_maps=True,
    inference=dict(short_side=512, long_side=2048),
)
optim_wrapper.optimizer.lr = 6e-5
