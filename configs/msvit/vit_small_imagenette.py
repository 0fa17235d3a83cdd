"""ViT-S/16 from scratch on ten ImageNet classes at 224 pixels: the backbone that MSViT is tuned from, 100 epochs.

Smaller images train and are tested under the same conditions with ``--cfg-options model.backbone.img_size=160`` and
``{train,val,test}_dataloader.dataset.transform.input_size=160``.
Command: ``GATEDVISION_DATA=/path/to/data python tools/train.py configs/msvit/vit_small_imagenette.py``
"""

from mmengine.config import read_base

from gatedvision.tasks import Classification

with read_base():
    from .._base_.default_runtime import *
    from .._base_.imagenette224 import *
    from .._base_.small_100_epochs import *

model = dict(
    type=Classification,
    backbone=dict(model_name="vit_small_patch16_224", num_classes=10, img_size=224, drop_path_rate=0.1),
    mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5),
    label_smoothing=0.1,
)
# The base's rate, 1e-3, is too high for this width: the loss stays where it starts.
optim_wrapper.optimizer.lr = 3e-4
amp = "bf16"
