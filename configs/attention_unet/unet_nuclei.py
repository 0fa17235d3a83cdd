"""The U-Net of attention_unet_nuclei.py without its gates, 34.5 M parameters: everything else is the same.

Command: ``GATEDVISION_DATA=/path/to/data python tools/train.py configs/attention_unet/unet_nuclei.py``
"""

from mmengine.config import read_base

with read_base():
    from .attention_unet_nuclei import *

model.network.gated = False
