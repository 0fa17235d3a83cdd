"""HorNet's ImageNet schedule: 300 epochs of AdamW, 20 of them warm-up from nearly nothing, then a cosine.

The learning rate holds for a total batch of 4,096 and is scaled to the real one, the rate at the end of the schedule
with it.
"""

from mmengine.optim import CosineAnnealingLR, LinearLR
from torch.optim import AdamW

from gatedvision.engine import EMA

train_cfg = dict(by_epoch=True, max_epochs=300)
auto_scale_lr = dict(enable=True, base_batch_size=4096)
optim_wrapper = dict(
    optimizer=dict(type=AdamW, fused=True, lr=4e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
# The published warm-up begins at 0, from where mmengine's, which multiplies, could not rise.
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-6, end=20, convert_to_iter_based=True),
    dict(type=CosineAnnealingLR, eta_min_ratio=1e-6 / 4e-3, begin=20, convert_to_iter_based=True),
]
custom_hooks = [dict(type=EMA, momentum=1e-4)]
