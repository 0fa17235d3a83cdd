"""The published ImageNet schedule: 300 epochs of AdamW, 20 of them warm-up, then a cosine; clipping and EMA.

Learning rates hold for a total batch of 512 and are scaled to the real one, the rates at both ends of the schedule
with them.
"""

from mmengine.optim import CosineAnnealingLR, LinearLR
from torch.optim import AdamW

from gatedvision.engine import EMA

train_cfg = dict(by_epoch=True, max_epochs=300)
auto_scale_lr = dict(enable=True, base_batch_size=512)
optim_wrapper = dict(
    optimizer=dict(type=AdamW, fused=True, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
# From 5e-7 over the learning rate to 5e-6: configs with another learning rate adapt both ratios.
param_scheduler = [
    dict(type=LinearLR, start_factor=5e-7 / 1e-3, end=20, convert_to_iter_based=True),
    dict(type=CosineAnnealingLR, eta_min_ratio=5e-6 / 1e-3, begin=20, convert_to_iter_based=True),
]
custom_hooks = [dict(type=EMA, momentum=1e-4)]
