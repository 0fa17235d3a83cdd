"""ADE20K's 150 classes, windows of 640 pixels; folders and the rest as in ``ade20k_512.py``."""

from mmengine.config import read_base

with read_base():
    from .ade20k_512 import *

train_pipeline[0].max_size = list(range(320, 1281, 16))
train_pipeline[1].update(height=640, width=640)
train_pipeline[4].update(min_height=640, min_width=640)
train_dataloader.dataset.transforms = train_pipeline
