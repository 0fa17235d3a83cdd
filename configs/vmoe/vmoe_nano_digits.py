"""A nano V-MoE on scikit-learn's 8 x 8 handwritten digits: experts without a download, two minutes on two CPU cores.

Command: ``python tools/train.py configs/vmoe/vmoe_nano_digits.py``
"""

from mmengine.config import read_base

from gatedvision.tasks import Classification

with read_base():
    from .._base_.default_runtime import *
    from .._base_.digits import *
    from .._base_.small_100_epochs import *

# 4 x 4 patches and a class token.
model = dict(
    type=Classification,
    backbone=dict(
        model_name="vmoe_b16_every2_e8",
        img_size=8,
        patch_size=2,
        in_chans=1,
        num_classes=10,
        embed_dim=64,
        depth=4,
        num_heads=2,
        expert_blocks=(1, 3),
        num_experts=4,
        capacity_factor=1.05,
    ),
    label_smoothing=0.1,
)
train_cfg.max_epochs = 60
optim_wrapper.optimizer.lr = 3e-3
default_hooks.logger.interval = 11
