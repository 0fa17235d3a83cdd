"""Mask R-CNN on HorNet-S 7x7, COCO, by the published 1x schedule (arXiv:2207.14284).

Published: the config, without figures; 12 epochs, 16 images a step. Not repeated here.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/hornet/hornet_small_7x7_mask_rcnn_1x_coco.py``
"""

from mmengine.config import read_base

from gatedvision.tasks import Detection

with read_base():
    from .._base_.coco_multi_scale import *
    from .._base_.detection_1x import *

model = dict(
    type=Detection,
    backbone=dict(model_name="hornet_small_7x7", pretrained=True, drop_path_rate=0.6),
    num_classes=80,
    detector="mask_rcnn",
    norm_maps=True,
    min_size=tuple(range(480, 801, 32)),
)
# Published is a factor of 0.95 for each group of layers, two blocks or so; here, each block is one.
optim_wrapper.paramwise_cfg = dict(layer_decay=0.95**0.5)
