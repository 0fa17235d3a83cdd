"""RetinaNet on MogaNet-B, COCO, by the published 1x schedule (arXiv:2211.03295).

Published: box AP 47.7; 12 epochs, 16 images a step. Not repeated here.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/moganet/moganet_base_retinanet_1x_coco.py``
"""

from mmengine.config import read_base

from gatedvision.tasks import Detection

with read_base():
    from .._base_.coco import *
    from .._base_.detection_1x import *

model = dict(
    type=Detection,
    backbone=dict(model_name="moganet_base.in1k", pretrained=True, drop_path_rate=0.2),
    num_classes=80,
    detector="retinanet",
)
train_dataloader.dataset.with_masks = False
val_evaluator.iou_types = ("bbox",)
test_evaluator = val_evaluator
