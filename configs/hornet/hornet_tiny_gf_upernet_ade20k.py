"""UPerNet on HorNet-T GF, ADE20K at 512 pixels, by the published recipe (arXiv:2207.14284).

Published: mIoU 49.2 %, at several scales and mirrored 49.3 %, 55M parameters; 160,000 iterations, 16 images a step.
Not repeated here.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/hornet/hornet_tiny_gf_upernet_ade20k.py``
"""

from mmengine.config import read_base

from gatedvision.heads import FCNHead, UPerHead
from gatedvision.tasks import Segmentation

with read_base():
    from .._base_.ade20k_512 import *
    from .._base_.segmentation_160k import *

model = dict(
    type=Segmentation,
    backbone=dict(model_name="hornet_tiny_gf.in1k", pretrained=True, drop_path_rate=0.4, img_size=384),
    num_classes=150,
    head=dict(type=UPerHead, dim=512),
    auxiliary_head=dict(type=FCNHead, index=2, dim=256),
    norm_maps=True,
    inference=dict(short_side=512, long_side=2048, crop=512, stride=341),
)
optim_wrapper.optimizer.weight_decay = 0.05
optim_wrapper.clip_grad = dict(max_norm=1.0)
# Published is a factor of 0.9 a stage, the last of them 3 below the heads.
optim_wrapper.paramwise_cfg = dict(layer_decay=0.9, by_stage=True, backbone_rate=0.9**2)
