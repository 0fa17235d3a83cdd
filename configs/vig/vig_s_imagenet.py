"""ViG-S on ImageNet-1K by the published recipe (arXiv:2405.18425).

Published: top-1 81.7 %, 22.6 M parameters; 300 epochs, 8 GPUs with 128 images each. Not repeated here.
Precision: float32, as published; --amp bf16 is faster and has not been compared over 300 epochs.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/vig/vig_s_imagenet.py --launcher pytorch``
"""

from mmengine.config import read_base

from gatedvision.tasks import Classification

with read_base():
    from .._base_.default_runtime import *
    from .._base_.imagenet_224 import *
    from .._base_.imagenet_300_epochs import *

model = dict(
    type=Classification,
    backbone=dict(model_name="vig_s", num_classes=1000, drop_path_rate=0.2),
    mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5),
    label_smoothing=0.1,
)
optim_wrapper.optimizer.update(lr=5e-4, weight_decay=0.1)
param_scheduler[0].start_factor = 5e-7 / 5e-4
param_scheduler[1].eta_min_ratio = 5e-6 / 5e-4
