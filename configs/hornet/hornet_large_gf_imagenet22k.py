"""HorNet-L GF on ImageNet-22K, the published pre-training (arXiv:2207.14284).

Published: top-1 on ImageNet-22K is not stated; 90 epochs, 32 GPUs with twice 64 images a step. Not repeated here.
The number of classes is not stated either: 10,450 explain the published numbers of parameters.
Precision: float32, as published; --amp bf16 is faster and has not been compared.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/hornet/hornet_large_gf_imagenet22k.py
--launcher pytorch``
"""

from mmengine.config import read_base

from gatedvision.tasks import Classification

with read_base():
    from .._base_.default_runtime import *
    from .._base_.imagenet22k_90_epochs import *

model = dict(
    type=Classification,
    backbone=dict(model_name="hornet_large_gf", num_classes=10450, drop_path_rate=0.2),
    mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5),
    label_smoothing=0.1,
)
optim_wrapper.clip_grad.max_norm = 1.0
