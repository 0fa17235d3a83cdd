"""MogaNet's ImageNet schedule: 5 epochs of warm-up, a cosine to epoch 300, 10 epochs at its floor; AdamW, unclipped.

Learning rates hold for a total batch of 1,024 and are scaled to the real one, the rates at both ends of the schedule
with them.
"""

from mmengine.optim import CosineAnnealingLR, LinearLR
from torch.optim import AdamW

train_cfg = dict(by_epoch=True, max_epochs=310)
auto_scale_lr = dict(enable=True, base_batch_size=1024)
optim_wrapper = dict(optimizer=dict(type=AdamW, fused=True, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05))
# From 1e-5 to 1e-5 over the learning rate; the two small models go down to 1e-6.
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-5 / 1e-3, end=5, convert_to_iter_based=True),
    dict(type=CosineAnnealingLR, eta_min_ratio=1e-5 / 1e-3, begin=5, end=300, convert_to_iter_based=True),
]
