"""Mask R-CNN on ViG-H-B, COCO, 3x schedule (arXiv:2405.18425).

Published: figures only, without the recipe. This is the one of VMamba, the code base that ViG-H was written on;
drop path as in classification. Not repeated here.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/vig/vig_h_b_mask_rcnn_3x_coco.py``
"""

from mmengine.config import read_base

from gatedvision.tasks import Detection

with read_base():
    from .._base_.coco_multi_scale import *
    from .._base_.detection_3x import *

model = dict(
    type=Detection,
    backbone=dict(model_name="vig_h_b.in1k", pretrained=True, drop_path_rate=0.6),
    num_classes=80,
    detector="mask_rcnn",
    norm_maps=True,
    min_size=tuple(range(480, 801, 32)),
)
param_scheduler[0].end = 1000
