"""Mask R-CNN on HorNet-T GF, COCO, by the published 3x schedule (arXiv:2207.14284).

Published: box AP 52.4, mask AP 45.6 with Cascade Mask R-CNN, whose three box heads torchvision lacks; the rest is
its recipe: 36 epochs, 16 images a step. Not repeated here.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/hornet/hornet_tiny_gf_mask_rcnn_3x_coco.py``
"""

from mmengine.config import read_base

from gatedvision.tasks import Detection

with read_base():
    from .._base_.coco_multi_scale import *
    from .._base_.detection_3x import *

model = dict(
    type=Detection,
    backbone=dict(model_name="hornet_tiny_gf", pretrained=True, drop_path_rate=0.4),
    num_classes=80,
    detector="mask_rcnn",
    norm_maps=True,
    min_size=tuple(range(480, 801, 32)),
)
optim_wrapper.optimizer.lr = 2e-4
# Published is a factor of 0.7 for each of 14 groups of layers, two blocks or so; here, each block is one.
optim_wrapper.paramwise_cfg = dict(layer_decay=0.7**0.5)
