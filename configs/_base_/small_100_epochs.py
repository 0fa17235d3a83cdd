"""100 epochs of AdamW for small data sets, 5 of them warm-up, then a cosine; clipping and EMA."""

from mmengine.optim import CosineAnnealingLR, LinearLR
from torch.optim import AdamW

from gatedvision.engine import EMA

train_cfg = dict(by_epoch=True, max_epochs=100)
optim_wrapper = dict(optimizer=dict(type=AdamW, fused=True, lr=1e-3, weight_decay=0.05), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type=LinearLR, start_factor=0.01, end=5, convert_to_iter_based=True),
    dict(type=CosineAnnealingLR, eta_min_ratio=0.001, begin=5, convert_to_iter_based=True),
]
# The average spans the last quarter (1 / gamma) of the run so far, at most 500 (1 / momentum) iterations; with the
# momentum alone, the random start would still show at the end of a short run.
custom_hooks = [dict(type=EMA, momentum=2e-3, gamma=4)]
