"""CIFAR-10 as image files of 32 x 32 pixels, kept in memory.

Folders: ``$GATEDVISION_DATA/cifar10/{train,test}/<class>/*.jpg`` or ``.png`` (``GATEDVISION_DATA`` is ``data`` when
unset).
"""

from mmengine.dataset import DefaultSampler

from gatedvision.data import ImageFolder, collate_samples, create_transform
from gatedvision.metrics import Accuracy

_mean = (0.4914, 0.4822, 0.4465)
_std = (0.2470, 0.2435, 0.2616)

train_pipeline = dict(
    type=create_transform,
    input_size=32,
    is_training=True,
    scale=(0.5, 1.0),
    color_jitter=None,
    auto_augment="rand-m7-n2-mstd0.5",
    re_prob=0.25,
    interpolation="bicubic",
    mean=_mean,
    std=_std,
)
val_pipeline = dict(type=create_transform, input_size=32, is_training=False, crop_pct=1.0, mean=_mean, std=_std)

train_dataloader = dict(
    dataset=dict(
        type=ImageFolder, root="$GATEDVISION_DATA/cifar10", split="train", transform=train_pipeline, cache=True
    ),
    sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=collate_samples),
    batch_size=128,
    drop_last=True,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
)
val_dataloader = dict(
    dataset=dict(type=ImageFolder, root="$GATEDVISION_DATA/cifar10", split="test", transform=val_pipeline, cache=True),
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_samples),
    batch_size=500,
    num_workers=2,
    persistent_workers=True,
    pin_memory=True,
)
val_evaluator = dict(type=Accuracy, topk=(1, 5))
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()
