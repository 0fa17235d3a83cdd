"""V-MoE of ViT-Ti's size from scratch on ten ImageNet classes at 224 pixels: 100 epochs of 4,000 images, one GPU.

How many slots there are afterwards is a dial: see ``tools/sweep_capacity.py``.
Command: ``GATEDVISION_DATA=/path/to/data python tools/train.py configs/vmoe/vmoe_ti16_every2_e8_imagenette.py``
"""

from mmengine.config import read_base

from gatedvision.tasks import Classification

with read_base():
    from .._base_.default_runtime import *
    from .._base_.imagenette224 import *
    from .._base_.small_100_epochs import *

# 18.0 M parameters and 1.64 GMACs, of which ViT-Ti has 5.5 M and 1.25.
model = dict(
    type=Classification,
    backbone=dict(
        model_name="vmoe_b16_every2_e8", num_classes=10, embed_dim=192, depth=12, num_heads=3, capacity_factor=1.05
    ),
    mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5),
    label_smoothing=0.1,
)
# Images are routed in groups, which in the order of the folders would be of one class.
val_dataloader.sampler.shuffle = True
test_dataloader = val_dataloader
amp = "bf16"
