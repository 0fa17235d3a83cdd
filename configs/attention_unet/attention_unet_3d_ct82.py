"""Attention U-Net on the pancreas of TCIA's Pancreas-CT (CT-82), from scratch, patches of 160 x 160 x 96 at 2 mm.

O. Oktay et al., Attention U-Net: Learning Where to Look for the Pancreas, arXiv:1804.03999: soft Dice over both
classes, Adam 1e-4, 2 patches a step; 61 volumes to train, 21 to test.
Published: pancreas Dice 0.821 +- 0.057 from scratch, 0.831 +- 0.038 for the network of CT-150 tuned further. Not
repeated here.
Command: ``python tools/train.py configs/attention_unet/attention_unet_3d_ct82.py``
"""

from mmengine.config import read_base

from gatedvision.tasks import MedicalSegmentation

with read_base():
    from .._base_.abdominal_ct import *
    from .._base_.attention_unet_published import *

model = dict(
    type=MedicalSegmentation,
    network=dict(model_name="attention_unet_3d", in_chans=1),
    num_classes=2,
    losses=dict(published_dice=1.0),
    inference=dict(size=(160, 160, 96), overlap=0.5),
)
train_dataloader.dataset.update(
    images="$GATEDVISION_DATA/pancreas_ct/images/train",
    labels="$GATEDVISION_DATA/pancreas_ct/labels/train",
    classes=("background", "pancreas"),
)
val_dataloader.dataset.update(
    images="$GATEDVISION_DATA/pancreas_ct/images/val",
    labels="$GATEDVISION_DATA/pancreas_ct/labels/val",
    classes=("background", "pancreas"),
)
test_dataloader = val_dataloader
