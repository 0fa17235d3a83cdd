"""MSViT-Ti tuned on ImageNet-1K for 20 epochs from weights of ViT-Ti/16 (arXiv:2307.02321).

Published: top-1 is in tables of the paper that we have not read. Only the 20 epochs are the paper's; all else is our
choice. Not measured by us. The target is the share of regions that are cut into fine tokens:
``--cfg-options model.backbone.gate_loss.target=0.25``.
Command: ``torchrun --nproc_per_node=8 tools/train.py configs/msvit/msvit_tiny_imagenet.py --launcher pytorch``
"""

from mmengine.config import read_base

from gatedvision.metrics import Accuracy, ImageCosts
from gatedvision.tasks import Classification

with read_base():
    from .._base_.default_runtime import *
    from .._base_.imagenet_224 import *
    from .._base_.tune_20_epochs import *

model = dict(
    type=Classification,
    backbone=dict(
        model_name="msvit_tiny",
        pretrained=True,
        num_classes=1000,
        drop_path_rate=0.1,
        gate_loss=dict(target=0.5, weight=4.0),
    ),
    label_smoothing=0.1,
)
# As bytes, which the task normalises as the weights want it.
train_pipeline.update(normalize=False, re_prob=0.0)
val_pipeline.update(normalize=False, crop_pct=0.9)
train_dataloader.dataset.transform = train_pipeline
val_dataloader.dataset.transform = val_pipeline
val_evaluator = [dict(type=Accuracy, topk=(1, 5)), dict(type=ImageCosts)]
test_dataloader, test_evaluator = val_dataloader, val_evaluator
amp = "bf16"
