"""V-MoE's fine-tuning: a few epochs of SGD, a short warm-up, then a cosine down to 1e-5; neither weight decay nor EMA.

The learning rate holds for a total batch of 1,024 and is scaled to the real one. Published are 10,000 steps on
ImageNet-1K, 500 of them warm-up: 8 epochs of 1,251 are 10,008.
"""

from mmengine.optim import CosineAnnealingLR, LinearLR
from torch.optim import SGD

train_cfg = dict(by_epoch=True, max_epochs=8)
auto_scale_lr = dict(enable=True, base_batch_size=1024)
optim_wrapper = dict(optimizer=dict(type=SGD, lr=3e-3, momentum=0.9), clip_grad=dict(max_norm=10.0))
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-6, end=0.4, convert_to_iter_based=True),
    dict(type=CosineAnnealingLR, eta_min_ratio=1e-5 / 3e-3, begin=0.4, convert_to_iter_based=True),
]
