"""ImageNet-1K at 224 pixels with MogaNet's augmentation: any interpolation in training, less cut off in evaluation."""

from mmengine.config import read_base

with read_base():
    from .imagenet_224 import *

train_pipeline.interpolation = "random"
train_dataloader.dataset.transform = train_pipeline
# Resize the short side to 248, crop the centre 224.
val_pipeline.crop_pct = 0.9
val_dataloader.dataset.transform = val_pipeline
test_dataloader = val_dataloader
