"""Places365 for inpainting: windows of 256 x 256 pixels out of images of any size, each with a free-form hole.

Folders: ``$GATEDVISION_DATA/places365/train`` (1,803,460 images) and ``.../val`` (36,500), images at any depth
(``GATEDVISION_DATA`` is ``data`` when unset). Smaller images are enlarged until a window fits. The holes of the
validation depend on the seed alone. A batch of 32 is 16 for the discriminator and 16 for the generator.
"""

from albumentations import CenterCrop, RandomCrop
from mmengine.dataset import DefaultSampler

from gatedvision.data import EnlargeToCover, FreeFormMask, InpaintingFolder, collate_inpainting
from gatedvision.metrics import InpaintingMetrics

train_pipeline = [dict(type=EnlargeToCover, height=256, width=256), dict(type=RandomCrop, height=256, width=256)]
val_pipeline = [dict(type=EnlargeToCover, height=256, width=256), dict(type=CenterCrop, height=256, width=256)]

train_dataloader = dict(
    dataset=dict(
        type=InpaintingFolder,
        images="$GATEDVISION_DATA/places365/train",
        masks=dict(type=FreeFormMask),
        transforms=train_pipeline,
    ),
    sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=collate_inpainting),
    batch_size=32,
    drop_last=True,
    num_workers=12,
    persistent_workers=True,
    pin_memory=True,
)
val_dataloader = dict(
    dataset=dict(
        type=InpaintingFolder,
        images="$GATEDVISION_DATA/places365/val",
        masks=dict(type=FreeFormMask),
        transforms=val_pipeline,
    ),
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_inpainting),
    batch_size=32,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
)
val_evaluator = dict(
    type=InpaintingMetrics,
    lpips="$GATEDVISION_DATA/weights/alexnet-owt-7be5be79.pth",
    fid="$GATEDVISION_DATA/weights/weights-inception-2015-12-05-6726825d.pth",
)
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()
