"""Attention U-Net on CT-150 (pancreas, kidney, spleen), patches of 160 x 160 x 96 voxels at 2 mm, as published.

O. Oktay et al., Attention U-Net: Learning Where to Look for the Pancreas, arXiv:1804.03999: soft Dice over all classes,
Adam 1e-4, 2 patches a step. CT-150 is not public; any folders of NIfTI volumes will do.
Published: pancreas Dice 0.840 +- 0.087, surface distance 1.920 +- 1.284 mm (120 volumes to train, 30 to test), without
gates 0.814 +- 0.116. Not repeated here.
Command: ``python tools/train.py configs/attention_unet/attention_unet_3d_ct150.py``
"""

from mmengine.config import read_base

from gatedvision.tasks import MedicalSegmentation

with read_base():
    from .._base_.abdominal_ct import *
    from .._base_.attention_unet_published import *

model = dict(
    type=MedicalSegmentation,
    network=dict(model_name="attention_unet_3d", in_chans=1),
    num_classes=4,
    losses=dict(published_dice=1.0),
    inference=dict(size=(160, 160, 96), overlap=0.5),
)
