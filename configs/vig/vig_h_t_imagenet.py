"""ViG-H-T on ImageNet-1K by the published recipe (arXiv:2405.18425).

Published: top-1 82.8 %, 28.6 M parameters; 300 epochs, 8 GPUs with 128 images each. Not repeated here.
Precision: float16 with loss scaling, as published; add --amp bf16 on GPUs that have it.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/vig/vig_h_t_imagenet.py --launcher pytorch``
"""

from mmengine.config import read_base

from gatedvision.tasks import Classification

with read_base():
    from .._base_.default_runtime import *
    from .._base_.imagenet_224 import *
    from .._base_.imagenet_300_epochs import *

model = dict(
    type=Classification,
    backbone=dict(model_name="vig_h_t", num_classes=1000, drop_path_rate=0.2),
    mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5),
    label_smoothing=0.1,
)
optim_wrapper.optimizer.lr = 8e-4
param_scheduler[0].start_factor = 5e-7 / 8e-4
param_scheduler[1].eta_min_ratio = 5e-6 / 8e-4
amp = "fp16"
