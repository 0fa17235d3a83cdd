"""V-MoE-B/16 with 8 experts tuned on ImageNet-1K at 384 pixels, from ImageNet-21K, as published (arXiv:2106.05974).

Published: top-1 85.6 %, the mean of three runs; 285.2 M parameters; 10,000 steps of 1,024 images. Not repeated here.
Precision: float32; --amp bf16 is faster and has not been compared.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/vmoe/vmoe_b16_every2_e8_img384_imagenet.py --launcher
pytorch --cfg-options model.backbone.pretrained=True model.backbone.pretrained_cfg_overlay.file=vmoe_b16.safetensors
model.backbone.pretrained_cfg_overlay.num_classes=21843``,
with what ``tools/convert_checkpoint.py vmoe_b16_imagenet21k_randaug_strong --out vmoe_b16.safetensors`` wrote.
"""

from mmengine.config import read_base

from gatedvision.tasks import Classification

with read_base():
    from .._base_.default_runtime import *
    from .._base_.vmoe_fine_tuning import *
    from .._base_.vmoe_imagenet_384 import *

model = dict(
    type=Classification,
    backbone=dict(model_name="vmoe_b16_every2_e8", num_classes=1000, img_size=384, capacity_factor=1.5),
)
