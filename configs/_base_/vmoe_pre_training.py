"""V-MoE's training on ImageNet from the start: 300 epochs of Adam, a long warm-up, a straight line down; mixup, no EMA.

Folders: ``$GATEDVISION_DATA/imagenet/{train,val}/<wnid>/*.JPEG`` (``GATEDVISION_DATA`` is ``data`` when unset). Images
stay bytes, which the task brings between -1 and 1. The learning rate holds for a total batch of 8,192 and is scaled to
the real one.
"""

from mmengine.config import read_base
from mmengine.optim import LinearLR
from torch.optim import AdamW

with read_base():
    from .imagenet_224 import *

train_pipeline.update(
    scale=(0.05, 1.0),
    auto_augment="rand-m10-n2-p1",
    color_jitter=None,
    interpolation="bilinear",
    re_prob=0.0,
    normalize=False,
)
# Published are means over areas.
val_pipeline.update(interpolation="box", normalize=False)
train_dataloader.dataset.transform = train_pipeline
val_dataloader.dataset.transform = val_pipeline
# Images are routed in groups, which in the order of the folders would be of one class.
val_dataloader.sampler.shuffle = True
test_dataloader = val_dataloader

train_cfg = dict(by_epoch=True, max_epochs=300)
auto_scale_lr = dict(enable=True, base_batch_size=8192)
optim_wrapper = dict(
    # Weight decay apart from Adam's rates; weights of all linear layers, routers included, decay, and nothing else.
    optimizer=dict(type=AdamW, fused=True, lr=3e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1),
    clip_grad=dict(max_norm=1.0),
)
# Published are 10,000 steps of warm-up; 64 epochs of 156 are 9,984.
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-6, end=64, convert_to_iter_based=True),
    dict(type=LinearLR, start_factor=1.0, end_factor=1e-5 / 3e-3, begin=64, convert_to_iter_based=True),
]
