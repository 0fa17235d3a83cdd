"""A detection run of seconds with random sizes, flips, dropped paths and drawn proposals."""

# ruff: noqa: F403, F405
# pyright: reportUnboundVariable=false
from mmengine.config import read_base
from torch.optim import AdamW

with read_base():
    from ...configs._base_.default_runtime import *
    from ...configs._base_.shapes_detection import *

from gatedvision.engine import EMA
from gatedvision.tasks import Detection

model = dict(
    type=Detection,
    backbone=dict(model_name="hornet_tiny_7x7", dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), drop_path_rate=0.2),
    num_classes=3,
    detector="mask_rcnn",
    min_size=(32, 48),
    max_size=64,
    channels=16,
    detector_options=dict(
        rpn_post_nms_top_n_train=20,
        rpn_post_nms_top_n_test=10,
        box_batch_size_per_image=8,
        box_detections_per_img=4,
        box_score_thresh=0.0,
    ),
)
train_dataloader.update(batch_size=2)
train_dataloader.dataset.update(length=6, size=32)
val_dataloader.update(batch_size=2)
# Three images for one of two processes, two and a repeated one for the other.
val_dataloader.dataset.update(length=5, size=32)
test_dataloader = val_dataloader
default_hooks.checkpoint.save_best = "coco/bbox_mAP"
train_cfg = dict(by_epoch=True, max_epochs=2)
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=1e-3, weight_decay=0.05), clip_grad=dict(max_norm=10.0))
custom_hooks = [dict(type=EMA, momentum=0.1)]
