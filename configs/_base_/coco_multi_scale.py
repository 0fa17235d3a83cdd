"""COCO 2017 with the multi-scale augmentation of the 3x recipes: half of the images are cut to a random window first.

Files as in ``coco.py``. The model then draws the short side: configs give it ``min_size=tuple(range(480, 801, 32))``.
"""

from mmengine.config import read_base

from gatedvision.data import RandomWindow

with read_base():
    from .coco import *

train_pipeline.append(dict(type=RandomWindow, short_sides=(400, 500, 600), window_sides=(384, 600), p=0.5))
train_dataloader.dataset.transforms = train_pipeline
