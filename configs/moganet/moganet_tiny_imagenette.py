"""MogaNet-T from scratch on ten ImageNet classes at 224 pixels: 100 epochs of 4,000 images, minutes on one GPU.

Command: ``GATEDVISION_DATA=/path/to/data python tools/train.py configs/moganet/moganet_tiny_imagenette.py``. Another
model trains under the same conditions with ``--cfg-options model.backbone.model_name=convnext_pico``.
"""

from mmengine.config import read_base

from gatedvision.tasks import Classification

with read_base():
    from .._base_.default_runtime import *
    from .._base_.imagenette224 import *
    from .._base_.small_100_epochs import *

model = dict(
    type=Classification,
    backbone=dict(model_name="moganet_tiny", num_classes=10, drop_path_rate=0.0),
    mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5),
    label_smoothing=0.1,
)
amp = "bf16"
