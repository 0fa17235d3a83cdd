"""MogaNet-S on ImageNet-1K by the published recipe (arXiv:2211.03295).

Published: top-1 83.4 %, 25.3 M parameters; 310 epochs, 8 GPUs with 128 images each. Not repeated here.
Precision: float32, as published; --amp bf16 is faster and has not been compared over 310 epochs.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/moganet/moganet_small_imagenet.py --launcher pytorch``
"""

from mmengine.config import read_base

from gatedvision.engine import EMA
from gatedvision.tasks import Classification

with read_base():
    from .._base_.default_runtime import *
    from .._base_.imagenet_224_crop_90 import *
    from .._base_.imagenet_310_epochs import *

model = dict(
    type=Classification,
    backbone=dict(model_name="moganet_small", num_classes=1000, drop_path_rate=0.1),
    mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5),
    label_smoothing=0.1,
)
custom_hooks = [dict(type=EMA, momentum=1e-4)]
