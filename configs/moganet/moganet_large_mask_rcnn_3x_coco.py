"""Mask R-CNN on MogaNet-L, COCO, by the published multi-scale 3x schedule (arXiv:2211.03295).

Published: box AP 50.6, mask AP 44.6; 36 epochs, 16 images a step. Not repeated here.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/moganet/moganet_large_mask_rcnn_3x_coco.py``
"""

from mmengine.config import read_base

from gatedvision.tasks import Detection

with read_base():
    from .._base_.coco import *
    from .._base_.detection_3x import *

model = dict(
    type=Detection,
    backbone=dict(model_name="moganet_large.in1k", pretrained=True, drop_path_rate=0.3),
    num_classes=80,
    detector="mask_rcnn",
    min_size=tuple(range(480, 801, 32)),
)
optim_wrapper.optimizer.lr = 2e-4
