"""HorNet's fine-tuning on ImageNet-1K at 384 pixels: 30 epochs of AdamW, a cosine without warm-up, layer decay, EMA.

Folders as in ``imagenet_224.py``. Evaluation warps the whole image to a square. The learning rate holds for a total
batch of 512 and is scaled to the real one.
"""

from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR
from torch.optim import AdamW

from gatedvision.engine import EMA

with read_base():
    from .imagenet_224 import *

train_pipeline.update(input_size=384)
val_pipeline.update(input_size=384, crop_pct=1.0, crop_mode="squash")
train_dataloader.update(batch_size=16)
train_dataloader.dataset.transform = train_pipeline
val_dataloader.dataset.transform = val_pipeline
test_dataloader = val_dataloader

train_cfg = dict(by_epoch=True, max_epochs=30)
auto_scale_lr = dict(enable=True, base_batch_size=512)
optim_wrapper = dict(
    optimizer=dict(type=AdamW, fused=True, lr=5e-5, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-8),
    # Published is a factor of 0.7 for each of 14 groups of layers, two blocks or so; here, each block is one.
    paramwise_cfg=dict(layer_decay=0.7**0.5),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [dict(type=CosineAnnealingLR, eta_min_ratio=1e-6 / 5e-5, convert_to_iter_based=True)]
custom_hooks = [dict(type=EMA, momentum=1e-4)]
