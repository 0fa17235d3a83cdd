"""Attention U-Net (the popular 2D form, 34.9 M parameters) from scratch on cell nuclei, patches of 256 x 256.

Command: ``GATEDVISION_DATA=/path/to/data python tools/train.py configs/attention_unet/attention_unet_nuclei.py``
"""

from mmengine.config import read_base

from gatedvision.tasks import MedicalSegmentation

with read_base():
    from .._base_.medical_small import *
    from .._base_.nuclei import *

model = dict(
    type=MedicalSegmentation,
    network=dict(model_name="attention_unet", in_chans=3),
    num_classes=1,
    losses=dict(dice=1.0, cross_entropy=1.0),
    inference=dict(size=(256, 256), overlap=0.5, batch_size=4, accumulate_on="device"),
)
amp = "bf16"
