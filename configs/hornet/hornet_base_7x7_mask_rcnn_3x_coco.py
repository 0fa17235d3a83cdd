"""Mask R-CNN on HorNet-B 7x7, COCO, by the published 3x schedule (arXiv:2207.14284).

Published: box AP 53.3, mask AP 46.1 with Cascade Mask R-CNN, whose three box heads torchvision lacks; the rest is
its recipe: 36 epochs, 16 images a step. Not repeated here.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/hornet/hornet_base_7x7_mask_rcnn_3x_coco.py``
"""

from mmengine.config import read_base

from gatedvision.tasks import Detection

with read_base():
    from .._base_.coco_multi_scale import *
    from .._base_.detection_3x import *

model = dict(
    type=Detection,
    backbone=dict(model_name="hornet_base_7x7", pretrained=True, drop_path_rate=0.7),
    num_classes=80,
    detector="mask_rcnn",
    norm_maps=True,
    min_size=tuple(range(480, 801, 32)),
)
optim_wrapper.optimizer.lr = 2e-4
# Published is a factor of 0.8 for each of 14 groups of layers, two blocks or so; here, each block is one.
optim_wrapper.paramwise_cfg = dict(layer_decay=0.8**0.5)
