"""V-MoE of ViT-Ti's size from scratch on CIFAR-10: patches of 4 pixels, 8 x 8 of them.

Command: ``GATEDVISION_DATA=/path/to/data python tools/train.py configs/vmoe/vmoe_ti4_every2_e8_cifar10.py``
"""

from mmengine.config import read_base

from gatedvision.tasks import Classification

with read_base():
    from .._base_.cifar10 import *
    from .._base_.default_runtime import *
    from .._base_.small_100_epochs import *

model = dict(
    type=Classification,
    backbone=dict(
        model_name="vmoe_b16_every2_e8",
        num_classes=10,
        img_size=32,
        patch_size=4,
        embed_dim=192,
        depth=12,
        num_heads=3,
        capacity_factor=1.05,
    ),
    mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=0.5, switch_prob=0.5),
    label_smoothing=0.1,
)
# Small images make short steps: larger batches keep a GPU busy.
train_dataloader.update(batch_size=512, num_workers=12)
# Images are routed in groups, which in the order of the folders would be of one class.
val_dataloader.sampler.shuffle = True
test_dataloader = val_dataloader
amp = "bf16"
