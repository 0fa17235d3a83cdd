"""A few hundred images of COCO's 80 categories: to check loaders and evaluation, and to over-fit on.

Files: ``$GATEDVISION_DATA/coco80_mini/annotations/instances_{train,val}.json`` and
``$GATEDVISION_DATA/coco80_mini/images/{train,val}/*.jpg`` (``GATEDVISION_DATA`` is ``data`` when unset). One image in
ten has rectangles for masks.
"""

from mmengine.config import read_base

with read_base():
    from .coco import *

train_dataloader.dataset.update(
    annotations="$GATEDVISION_DATA/coco80_mini/annotations/instances_train.json",
    images="$GATEDVISION_DATA/coco80_mini/images/train",
)
train_dataloader.batch_size = 4
val_dataloader.dataset.update(
    annotations="$GATEDVISION_DATA/coco80_mini/annotations/instances_val.json",
    images="$GATEDVISION_DATA/coco80_mini/images/val",
)
test_dataloader = val_dataloader
