"""MogaNet-XT on ImageNet-1K by the published recipe (arXiv:2211.03295).

Published: top-1 76.5 %, 3.0 M parameters; 310 epochs, 8 GPUs with 128 images each. Not repeated here.
Precision: float16 with loss scaling, as published; add --amp bf16 on GPUs that have it.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/moganet/moganet_xtiny_imagenet.py --launcher pytorch``
"""

from mmengine.config import read_base

from gatedvision.tasks import Classification

with read_base():
    from .._base_.default_runtime import *
    from .._base_.imagenet_224_crop_90 import *
    from .._base_.imagenet_310_epochs import *

model = dict(
    type=Classification,
    backbone=dict(model_name="moganet_xtiny", num_classes=1000, drop_path_rate=0.05),
    mixup=dict(mixup_alpha=0.1, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5),
    label_smoothing=0.1,
)
train_pipeline.auto_augment = "rand-m7-mstd0.5-inc1"
train_dataloader.dataset.transform = train_pipeline
optim_wrapper.optimizer.weight_decay = 0.03
param_scheduler[1].eta_min_ratio = 1e-6 / 1e-3
amp = "fp16"
