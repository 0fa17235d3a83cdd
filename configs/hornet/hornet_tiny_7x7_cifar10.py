"""HorNet-T 7x7 from scratch on CIFAR-10: patches of 2 x 2 pixels, maps of 16 x 16 to 2 x 2.

Command: ``GATEDVISION_DATA=/path/to/data python tools/train.py configs/hornet/hornet_tiny_7x7_cifar10.py``
"""

from mmengine.config import read_base

from gatedvision.tasks import Classification

with read_base():
    from .._base_.cifar10 import *
    from .._base_.default_runtime import *
    from .._base_.small_100_epochs import *

model = dict(
    type=Classification,
    backbone=dict(model_name="hornet_tiny_7x7", num_classes=10, patch_size=2, drop_path_rate=0.1),
    mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=0.5, switch_prob=0.5),
    label_smoothing=0.1,
)
amp = "bf16"
