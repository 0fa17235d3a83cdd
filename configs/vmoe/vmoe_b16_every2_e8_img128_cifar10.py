"""V-MoE-B/16 with 8 experts tuned on CIFAR-10 at 128 pixels, from ImageNet-21K, as published (arXiv:2106.05974).

Published: top-1 98.7 %; 284.1 M parameters; 1,000 steps of 1,024 images, here 21 epochs of 48. Not repeated here.
Precision: float32; --amp bf16 is faster and has not been compared.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/vmoe/vmoe_b16_every2_e8_img128_cifar10.py --launcher
pytorch --cfg-options model.backbone.pretrained=True model.backbone.pretrained_cfg_overlay.file=vmoe_b16.safetensors
model.backbone.pretrained_cfg_overlay.num_classes=21843``, see vmoe_b16_every2_e8_img384_imagenet.py
"""

from mmengine.config import read_base

from gatedvision.tasks import Classification

with read_base():
    from .._base_.default_runtime import *
    from .._base_.vmoe_cifar_128 import *
    from .._base_.vmoe_fine_tuning import *

model = dict(
    type=Classification,
    backbone=dict(model_name="vmoe_b16_every2_e8", num_classes=10, img_size=128, capacity_factor=1.5),
)
train_cfg.max_epochs = 21
optim_wrapper.optimizer.lr = 1.5e-3
# 100 steps.
param_scheduler[0].end = 2.09
param_scheduler[1].update(begin=2.09, eta_min_ratio=1e-5 / 1.5e-3)
