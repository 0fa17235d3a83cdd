"""MSViT-S tuned on ten ImageNet classes at 224 pixels, from a ViT-S/16 that was trained on them before: 50 epochs.

Needs the run of vit_small_imagenette.py. The target is the share of regions that are cut into fine tokens:
``--cfg-options model.backbone.gate_loss.target=0.25``. The paper's loss for the gate, and others:
``model.backbone.gate_loss.kind=generalized model.backbone.gate_loss.weight=20``, ``batch_shaping`` or ``mean_rate``;
without a gate, random regions of equal share:
``model.backbone.choice=random model.backbone.budget=0.25 find_unused_parameters=True``.
Command: ``GATEDVISION_DATA=/path/to/data python tools/train.py configs/msvit/msvit_small_imagenette.py``
"""

from mmengine.config import read_base

from gatedvision.engine import EMA
from gatedvision.metrics import Accuracy, ImageCosts
from gatedvision.tasks import Classification

with read_base():
    from .._base_.default_runtime import *
    from .._base_.imagenette224 import *
    from .._base_.tune_20_epochs import *

model = dict(
    type=Classification,
    backbone=dict(
        model_name="msvit_small",
        pretrained=True,
        pretrained_cfg_overlay=dict(file="work_dirs/vit_small_imagenette/epoch_100.pth", num_classes=10),
        num_classes=10,
        drop_path_rate=0.1,
        # Without noise the blocks learn on the tokens that they get in evaluation.
        noise=0.0,
        # With some tokens left out, gains of regions lack a part.
        spare=1.0,
        gate_loss=dict(kind="gain", target=0.25),
        detail=True,
        # Of 4,000 images a wide gate soon knows which are which.
        hidden_dim=48,
    ),
    label_smoothing=0.1,
)
# In 63 steps an epoch little is learned at a rate for ImageNet.
optim_wrapper.optimizer.lr = 2e-4
auto_scale_lr.base_batch_size = 64
optim_wrapper.paramwise_cfg = dict(rates={"backbone.gate*": 5.0})
train_cfg.max_epochs = 50
# Smaller windows would hide from the gate where objects lie in a whole image.
train_dataloader.dataset.transform.scale = (0.6, 1.0)
custom_hooks = [dict(type=EMA, momentum=2e-3, gamma=4)]
val_evaluator = [dict(type=Accuracy, topk=(1, 5)), dict(type=ImageCosts)]
test_evaluator = val_evaluator
amp = "bf16"
