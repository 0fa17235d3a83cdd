"""UPerNet on plain ViG-S with ViTDet's simple pyramid, ADE20K at 512 pixels (arXiv:2405.18425).

Published: figures only, without the recipe. The schedule is that of Vim, its predecessor: 60,000 iterations, 32
images a step, 96 epochs; drop path as in classification. Not repeated here.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/vig/vig_s_upernet_ade20k.py``
"""

from mmengine.config import read_base

from gatedvision.heads import FCNHead, UPerHead
from gatedvision.tasks import Segmentation

with read_base():
    from .._base_.ade20k_512 import *
    from .._base_.segmentation_160k import *

model = dict(
    type=Segmentation,
    backbone=dict(model_name="vig_s.in1k", pretrained=True, drop_path_rate=0.2),
    num_classes=150,
    head=dict(type=UPerHead, dim=512),
    auxiliary_head=dict(type=FCNHead, index=2, dim=256),
    norm_maps=True,
    inference=dict(short_side=512, long_side=2048, crop=512, stride=341),
)
train_cfg.max_epochs = 96
train_dataloader.batch_size = 4
auto_scale_lr.base_batch_size = 32
optim_wrapper.optimizer.weight_decay = 0.05
optim_wrapper.paramwise_cfg = dict(layer_decay=0.92)
