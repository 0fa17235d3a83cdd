"""CelebA-HQ for inpainting: faces of 256 x 256 pixels, each with a free-form hole.

Folders: ``$GATEDVISION_DATA/celeba_hq/train`` (28,000 images) and ``.../val`` (2,000) at any size, which are brought to
256 pixels (``GATEDVISION_DATA`` is ``data`` when unset). All else is as for Places365.
"""

from albumentations import RandomCrop, SmallestMaxSize
from mmengine.config import read_base

with read_base():
    from .places365_inpainting import *

# OpenCV's number for areas, which does not let fine detail alias.
train_pipeline = [
    dict(type=SmallestMaxSize, max_size=256, interpolation=3),
    dict(type=RandomCrop, height=256, width=256),
]
val_pipeline = train_pipeline
train_dataloader.dataset.update(images="$GATEDVISION_DATA/celeba_hq/train", transforms=train_pipeline)
val_dataloader.dataset.update(images="$GATEDVISION_DATA/celeba_hq/val", transforms=val_pipeline)
test_dataloader = val_dataloader
