"""HorNet-L 7x7 tuned on ImageNet-1K at 384 pixels, from weights of ImageNet-22K, as published (arXiv:2207.14284).

Published: top-1 not stated; 194.5 M parameters.
30 epochs, 32 GPUs with 16 images each. Not repeated here.
Precision: float32, as published; --amp bf16 is faster and has not been compared.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/hornet/hornet_large_7x7_imagenet.py
--launcher pytorch --cfg-options model.backbone.pretrained=True``
"""

from mmengine.config import read_base

from gatedvision.tasks import Classification

with read_base():
    from .._base_.default_runtime import *
    from .._base_.imagenet_384_30_epochs import *

model = dict(
    type=Classification,
    backbone=dict(model_name="hornet_large_7x7.in22k", num_classes=1000, drop_path_rate=0.4),
    label_smoothing=0.1,
)
