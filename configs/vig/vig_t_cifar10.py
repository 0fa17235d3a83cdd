"""ViG-T from scratch on CIFAR-10: its stem made for 32 x 32 pixels, 8 x 8 tokens.

Command: ``GATEDVISION_DATA=/path/to/data python tools/train.py configs/vig/vig_t_cifar10.py``
"""

from mmengine.config import read_base

from gatedvision.tasks import Classification

with read_base():
    from .._base_.cifar10 import *
    from .._base_.default_runtime import *
    from .._base_.small_100_epochs import *

model = dict(
    type=Classification,
    backbone=dict(
        model_name="vig_t",
        num_classes=10,
        img_size=32,
        stem_kernel_sizes=(3, 3),
        stem_strides=(2, 2),
        drop_path_rate=0.1,
    ),
    mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=0.5, switch_prob=0.5),
    label_smoothing=0.1,
)
amp = "bf16"
