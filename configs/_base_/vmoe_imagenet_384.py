"""ImageNet-1K at 384 pixels for V-MoE's fine-tuning: crops of any size and mirror images; the whole image to evaluate.

Folders: ``$GATEDVISION_DATA/imagenet/{train,val}/<wnid>/*.JPEG`` (``GATEDVISION_DATA`` is ``data`` when unset). Images
stay bytes, which the task brings between -1 and 1.
"""

from mmengine.config import read_base

from gatedvision.data import create_transform

with read_base():
    from .imagenet_224 import *

train_pipeline = dict(
    type=create_transform,
    input_size=384,
    is_training=True,
    scale=(0.05, 1.0),
    color_jitter=None,
    interpolation="bilinear",
    normalize=False,
)
val_pipeline = dict(
    type=create_transform,
    input_size=384,
    is_training=False,
    crop_pct=1.0,
    crop_mode="squash",
    interpolation="bilinear",
    normalize=False,
)
train_dataloader.dataset.transform = train_pipeline
val_dataloader.dataset.transform = val_pipeline
# Images are routed in groups, which in the order of the folders would be of one class.
val_dataloader.sampler.shuffle = True
test_dataloader = val_dataloader
