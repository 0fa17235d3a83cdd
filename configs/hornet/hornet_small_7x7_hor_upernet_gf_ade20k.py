"""UPerNet that ends in gnConv of global filters, on HorNet-S 7x7, ADE20K at 512 pixels (arXiv:2207.14284).

Published: the config, without figures; 160,000 iterations, 16 images a step. Not repeated here.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/hornet/hornet_small_7x7_hor_upernet_gf_ade20k.py``
"""

from mmengine.config import read_base

from gatedvision.heads import FCNHead, HorUPerHead
from gatedvision.tasks import Segmentation

with read_base():
    from .._base_.ade20k_512 import *
    from .._base_.segmentation_160k import *

model = dict(
    type=Segmentation,
    backbone=dict(model_name="hornet_small_7x7.in1k", pretrained=True, drop_path_rate=0.3),
    num_classes=150,
    head=dict(type=HorUPerHead, dim=512, map_size=(32, 32)),
    auxiliary_head=dict(type=FCNHead, index=2, dim=256),
    norm_maps=True,
    inference=dict(short_side=512, long_side=2048, crop=512, stride=341),
)
optim_wrapper.optimizer.weight_decay = 0.05
optim_wrapper.clip_grad = dict(max_norm=0.1)
# Published is a factor of 0.9 a stage, the last of them 9 below the heads.
optim_wrapper.paramwise_cfg = dict(layer_decay=0.9, by_stage=True, backbone_rate=0.9**8)
