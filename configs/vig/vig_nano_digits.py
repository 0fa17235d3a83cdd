"""A nano ViG on scikit-learn's 8 x 8 handwritten digits: the demo, about a minute on two CPU cores.

Command: ``make demo``, or ``python tools/train.py configs/vig/vig_nano_digits.py``
"""

from mmengine.config import read_base

from gatedvision.tasks import Classification

with read_base():
    from .._base_.default_runtime import *
    from .._base_.digits import *
    from .._base_.small_100_epochs import *

# 4 x 4 tokens.
model = dict(
    type=Classification,
    backbone=dict(
        model_name="vig_t",
        img_size=8,
        in_chans=1,
        num_classes=10,
        dim=64,
        depth=4,
        num_heads=2,
        stem_kernel_sizes=(3, 3),
        stem_strides=(1, 2),
    ),
    label_smoothing=0.1,
)
train_cfg.max_epochs = 20
optim_wrapper.optimizer.lr = 3e-3
param_scheduler[0].end = 3
param_scheduler[1].begin = 3
default_hooks.logger.interval = 11
