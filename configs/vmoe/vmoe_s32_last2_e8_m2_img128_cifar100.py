"""An ensemble of two members in one V-MoE-S/32 with 8 experts tuned on CIFAR-100 at 128 pixels (E3, arXiv:2110.03360).

Published: top-1 81.3 %, from weights of ImageNet-1K; 56.5 M parameters; 2,000 steps of 1,024 images, here 42 epochs of
48. Not repeated here. Groups are the 128 images of a process, of both members.
Folders: ``$GATEDVISION_DATA/cifar100/{train,test}/<class>/*.jpg`` or ``.png``.
Precision: float32; --amp bf16 is faster and has not been compared.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/vmoe/vmoe_s32_last2_e8_m2_img128_cifar100.py --launcher
pytorch --cfg-options model.backbone.pretrained=True model.backbone.pretrained_cfg_overlay.file=e3_s32.safetensors``,
with what ``tools/convert_checkpoint.py eee_s32_last2_ilsvrc2012 --out e3_s32.safetensors`` wrote.
"""

from mmengine.config import read_base

from gatedvision.tasks import Classification

with read_base():
    from .._base_.default_runtime import *
    from .._base_.vmoe_cifar_128 import *
    from .._base_.vmoe_fine_tuning import *

model = dict(
    type=Classification,
    backbone=dict(
        model_name="vmoe_s32_last2_e8",
        num_classes=100,
        img_size=128,
        num_members=2,
        num_selected=1,
        capacity_factor=1.5,
        group_images=128,
    ),
)
train_dataloader.dataset.root = "$GATEDVISION_DATA/cifar100"
val_dataloader.dataset.root = "$GATEDVISION_DATA/cifar100"
test_dataloader = val_dataloader

train_cfg.max_epochs = 42
optim_wrapper.optimizer.lr = 5e-3
# 200 steps.
param_scheduler[0].end = 4.17
param_scheduler[1].update(begin=4.17, eta_min_ratio=1e-5 / 5e-3)
