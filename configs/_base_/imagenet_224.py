"""ImageNet-1K at 224 pixels with the augmentation of the published recipes.

Folders: ``$GATEDVISION_DATA/imagenet/{train,val}/<wnid>/*.JPEG`` (``GATEDVISION_DATA`` is ``data`` when unset).
"""

from mmengine.dataset import DefaultSampler

from gatedvision.data import ImageFolder, collate_samples, create_transform
from gatedvision.metrics import Accuracy

train_pipeline = dict(
    type=create_transform,
    input_size=224,
    is_training=True,
    auto_augment="rand-m9-mstd0.5-inc1",
    color_jitter=0.4,
    interpolation="bicubic",
    re_prob=0.25,
    re_mode="pixel",
    re_count=1,
)
# Resize the short side to 256, crop the centre 224.
val_pipeline = dict(
    type=create_transform,
    input_size=224,
    is_training=False,
    crop_pct=0.875,
    interpolation="bicubic",
)

train_dataloader = dict(
    dataset=dict(type=ImageFolder, root="$GATEDVISION_DATA/imagenet", split="train", transform=train_pipeline),
    sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=collate_samples),
    batch_size=128,
    drop_last=True,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
)
val_dataloader = dict(
    dataset=dict(type=ImageFolder, root="$GATEDVISION_DATA/imagenet", split="val", transform=val_pipeline),
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_samples),
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
)
val_evaluator = dict(type=Accuracy, topk=(1, 5))
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()
