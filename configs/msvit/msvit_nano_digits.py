"""A nano MSViT on scikit-learn's 8 x 8 handwritten digits, gate and backbone together from scratch.

A region is 2 x 2 pixels: one token, or four of a pixel each. Two minutes on a CPU.
Command: ``python tools/train.py configs/msvit/msvit_nano_digits.py``
"""

from mmengine.config import read_base

from gatedvision.metrics import Accuracy, ImageCosts
from gatedvision.tasks import Classification

with read_base():
    from .._base_.default_runtime import *
    from .._base_.digits import *
    from .._base_.small_100_epochs import *

model = dict(
    type=Classification,
    backbone=dict(
        model_name="msvit_tiny",
        img_size=8,
        patch_size=1,
        coarse=2,
        in_chans=1,
        num_classes=10,
        embed_dim=64,
        depth=3,
        num_heads=2,
        global_pool="avg",
        # With timm's usual weights, tokens of one pixel learn nothing for many epochs.
        weight_init="jax",
        gate_loss=dict(target=0.4, weight=4.0),
    ),
    label_smoothing=0.1,
)
train_cfg.max_epochs = 30
optim_wrapper.optimizer.lr = 2e-3
optim_wrapper.paramwise_cfg = dict(rates={"backbone.gate*": 3.0})
param_scheduler[0].end = 3
param_scheduler[1].begin = 3
default_hooks.logger.interval = 11
val_evaluator = [dict(type=Accuracy, topk=(1,)), dict(type=ImageCosts)]
test_evaluator = val_evaluator
