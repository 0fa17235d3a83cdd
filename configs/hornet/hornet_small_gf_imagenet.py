"""HorNet-S GF on ImageNet-1K by the published recipe (arXiv:2207.14284).

Published: top-1 84.0 %, 50.4 M parameters; 300 epochs, 32 GPUs with twice 64 images a step. Not repeated here.
Precision: float32, as published; --amp bf16 is faster and has not been compared over 300 epochs.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/hornet/hornet_small_gf_imagenet.py --launcher pytorch``
"""

from mmengine.config import read_base

from gatedvision.tasks import Classification

with read_base():
    from .._base_.default_runtime import *
    from .._base_.imagenet_224 import *
    from .._base_.imagenet_300_epochs_batch_4096 import *

model = dict(
    type=Classification,
    backbone=dict(model_name="hornet_small_gf", num_classes=1000, drop_path_rate=0.4),
    mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5),
    label_smoothing=0.1,
)
train_pipeline.auto_augment = "rand-m12-mstd0.5-inc1"
train_dataloader.dataset.transform = train_pipeline
train_dataloader.batch_size = 64
optim_wrapper.accumulative_counts = 2
optim_wrapper.clip_grad.max_norm = 1.0
