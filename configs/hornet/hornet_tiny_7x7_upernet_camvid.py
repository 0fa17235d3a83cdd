"""UPerNet on HorNet-T 7x7 from scratch, CamVid.

Another backbone trains under the same conditions with ``--cfg-options model.backbone.model_name=convnext_tiny``, one
that was trained before with ``model.backbone.pretrained=True model.backbone.pretrained_cfg_overlay.file=CHECKPOINT``.
Command: ``GATEDVISION_DATA=/path/to/data python tools/train.py configs/hornet/hornet_tiny_7x7_upernet_camvid.py``
"""

from mmengine.config import read_base

from gatedvision.heads import FCNHead, UPerHead
from gatedvision.tasks import Segmentation

with read_base():
    from .._base_.camvid import *
    from .._base_.segmentation_small import *

model = dict(
    type=Segmentation,
    backbone=dict(model_name="hornet_tiny_7x7", drop_path_rate=0.2),
    num_classes=11,
    head=dict(type=UPerHead, dim=256),
    auxiliary_head=dict(type=FCNHead, index=2, dim=256),
    norm_maps=True,
)
amp = "bf16"
