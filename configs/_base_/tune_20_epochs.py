"""20 epochs of AdamW for a trained backbone that gets a gate of tokens: one of warm-up, then a cosine; clipping, EMA.

The paper states the number of epochs (arXiv:2307.02321); everything else is our choice. What belongs to the gate learns
at ten times the rate. Learning rates hold for a total batch of 512 and are scaled to the real one.
"""

from mmengine.optim import CosineAnnealingLR, LinearLR
from torch.optim import AdamW

from gatedvision.engine import EMA

train_cfg = dict(by_epoch=True, max_epochs=20)
auto_scale_lr = dict(enable=True, base_batch_size=512)
optim_wrapper = dict(
    optimizer=dict(type=AdamW, fused=True, lr=5e-5, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    # The gate's layers and positions, and what its loss learns.
    paramwise_cfg=dict(rates={"backbone.gate*": 10.0}),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.01, end=1, convert_to_iter_based=True),
    dict(type=CosineAnnealingLR, eta_min_ratio=0.01, begin=1, convert_to_iter_based=True),
]
custom_hooks = [dict(type=EMA, momentum=1e-4)]
