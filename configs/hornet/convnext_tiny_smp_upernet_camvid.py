"""segmentation_models_pytorch's UPerNet on timm's ConvNeXt-T from scratch, CamVid.

For comparison with hornet_tiny_7x7_upernet_camvid.py; data and schedule are the same. Needs ``pip install
segmentation-models-pytorch``.
Command: ``GATEDVISION_DATA=/path/to/data python tools/train.py configs/hornet/convnext_tiny_smp_upernet_camvid.py``
"""

from mmengine.config import read_base

from gatedvision.heads import SmpUPerHead
from gatedvision.tasks import Segmentation

with read_base():
    from .._base_.camvid import *
    from .._base_.segmentation_small import *

model = dict(
    type=Segmentation,
    backbone=dict(model_name="convnext_tiny", drop_path_rate=0.2),
    num_classes=11,
    head=dict(type=SmpUPerHead, dim=256),
)
amp = "bf16"
