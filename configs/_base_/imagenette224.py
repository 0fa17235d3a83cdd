"""Ten ImageNet classes, 4,000 training and 1,000 validation images of exactly 224 x 224 pixels, kept in memory.

Folders: ``$GATEDVISION_DATA/imagenette224/{train,val}/<wnid>/*.JPEG`` (``GATEDVISION_DATA`` is ``data`` when unset).
The images fill the frame already, so evaluation takes them whole. They stay bytes, which the task normalises.
"""

from mmengine.dataset import DefaultSampler

from gatedvision.data import ImageFolder, collate_samples, create_transform
from gatedvision.metrics import Accuracy

train_pipeline = dict(
    type=create_transform,
    input_size=224,
    is_training=True,
    scale=(0.25, 1.0),
    color_jitter=0.4,
    interpolation="bicubic",
    normalize=False,
)
val_pipeline = dict(
    type=create_transform,
    input_size=224,
    is_training=False,
    crop_pct=1.0,
    interpolation="bicubic",
    normalize=False,
)

train_dataloader = dict(
    dataset=dict(
        type=ImageFolder, root="$GATEDVISION_DATA/imagenette224", split="train", transform=train_pipeline, cache=True
    ),
    sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=collate_samples),
    batch_size=64,
    drop_last=True,
    num_workers=12,
    persistent_workers=True,
    pin_memory=True,
)
val_dataloader = dict(
    dataset=dict(
        type=ImageFolder, root="$GATEDVISION_DATA/imagenette224", split="val", transform=val_pipeline, cache=True
    ),
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_samples),
    batch_size=250,
    num_workers=2,
    persistent_workers=True,
    pin_memory=True,
)
val_evaluator = dict(type=Accuracy, topk=(1, 5))
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()
