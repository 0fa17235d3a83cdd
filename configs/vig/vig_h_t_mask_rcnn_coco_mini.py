"""Mask R-CNN on ViG-H-T, on a few hundred images of COCO.

A check of the whole path, and a start for data of one's own; too few images for an AP worth quoting.
Command: ``GATEDVISION_DATA=/path/to/data python tools/train.py configs/vig/vig_h_t_mask_rcnn_coco_mini.py``
"""

from mmengine.config import read_base

from gatedvision.tasks import Detection

with read_base():
    from .._base_.coco_mini import *
    from .._base_.detection_small import *

model = dict(
    type=Detection,
    backbone=dict(model_name="vig_h_t", drop_path_rate=0.1),
    num_classes=80,
    detector="mask_rcnn",
    norm_maps=True,
    min_size=(384, 416, 448, 480),
    max_size=640,
)
amp = "bf16"
