"""UPerNet on MSViT-S with ViTDet's simple pyramid, ADE20K at 512 pixels (arXiv:2307.02321).

Published: MSViT with another decoder, Segmenter's. Decoder and schedule are our choice. Not repeated here.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/msvit/msvit_small_upernet_ade20k.py``
"""

from mmengine.config import read_base

from gatedvision.heads import FCNHead, UPerHead
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
        gate_loss=dict(target=0.5, weight=4.0),
    ),
    num_classes=150,
    head=dict(type=UPerHead, dim=512),
    auxiliary_head=dict(type=FCNHead, index=2, dim=256),
    norm_maps=True,
    inference=dict(short_side=512, long_side=2048, crop=512, stride=341),
)
optim_wrapper.optimizer.lr = 6e-5
optim_wrapper.paramwise_cfg = dict(rates={"features.model.gate*": 10.0})
val_evaluator = [dict(type=SegmentationMetrics), dict(type=ImageCosts)]
test_evaluator = [dict(type=SegmentationMetrics, per_class=True), dict(type=ImageCosts)]
