"""400 training images of 256 x 256 pixels, and 100 fixed pairs of image and mask for validation.

Folders: ``$GATEDVISION_DATA/inpaint256/images/train`` and the list ``$GATEDVISION_DATA/inpaint256/pairs.json`` with
the files it names (``GATEDVISION_DATA`` is ``data`` when unset). Holes of the pairs are strokes of 8 to 28 pixels that
cover 1 to 50 % of the image; those of the training are drawn anew, of the same kind. An epoch shows each image ten
times.
"""

from albumentations import HorizontalFlip, RandomResizedCrop
from mmengine.dataset import DefaultSampler

from gatedvision.data import FreeFormMask, InpaintingFolder, InpaintingPairs, collate_inpainting
from gatedvision.metrics import InpaintingMetrics

# OpenCV's number for bicubic: linear interpolation would teach the network to blur.
train_pipeline = [
    dict(type=RandomResizedCrop, size=(256, 256), scale=(0.5, 1.0), ratio=(0.8, 1.25), interpolation=2),
    dict(type=HorizontalFlip, p=0.5),
]

train_dataloader = dict(
    dataset=dict(
        type=InpaintingFolder,
        images="$GATEDVISION_DATA/inpaint256/images/train",
        masks=dict(type=FreeFormMask, rectangle=0, strokes=(1, 8), brush=(8, 28), area=(0.01, 0.5)),
        transforms=train_pipeline,
        repeats=10,
    ),
    sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=collate_inpainting),
    batch_size=16,
    drop_last=True,
    num_workers=12,
    persistent_workers=True,
    pin_memory=True,
)
val_dataloader = dict(
    dataset=dict(type=InpaintingPairs, pairs="$GATEDVISION_DATA/inpaint256/pairs.json"),
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_inpainting),
    batch_size=20,
    num_workers=2,
    persistent_workers=True,
    pin_memory=True,
)
val_evaluator = dict(type=InpaintingMetrics, lpips="$GATEDVISION_DATA/weights/alexnet-owt-7be5be79.pth")
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()
