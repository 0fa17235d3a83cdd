"""A linear head on MSViT-S, ADE20K at 512 pixels, the decoder of Segmenter (arXiv:2105.05633, arXiv:2307.02321).

Published: figures of Segmenter with MSViT are in tables that we have not read. The schedule is our choice. Not repeated
here.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/msvit/msvit_small_linear_ade20k.py``
"""

from mmengine.config import read_base

from gatedvision.heads import LinearHead
from gatedvision.metrics import ImageCosts, SegmentationMetrics
from gatedvision.tasks import Segmentation

with read_base():
    from .._base_.ade20k_512 import *
    from .._base_.segmentation_160k import *

model = dict(
    type=Segmentation,
    backbone=dict(
        model_name="msvit_small",
        pretrained=True,
        img_size=512,
        drop_path_rate=0.1,
        out_indices=1,
        gate_loss=dict(target=0.5, weight=4.0),
    ),
    num_classes=150,
    head=dict(type=LinearHead),
    norm_maps=True,
    pyramid_dim=None,
    inference=dict(short_side=512, long_side=2048, crop=512, stride=512),
)
optim_wrapper.optimizer.lr = 6e-5
optim_wrapper.paramwise_cfg = dict(rates={"features.model.gate*": 10.0})
val_evaluator = [dict(type=SegmentationMetrics), dict(type=ImageCosts)]
test_evaluator = [dict(type=SegmentationMetrics, per_class=True), dict(type=ImageCosts)]
