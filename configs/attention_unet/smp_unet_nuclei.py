"""segmentation_models_pytorch's U-Net on timm's ResNet-50, 32.5 M parameters, from scratch on cell nuclei.

For comparison with attention_unet_nuclei.py; everything but the network is the same. Needs ``pip install
segmentation-models-pytorch``.
Command: ``GATEDVISION_DATA=/path/to/data python tools/train.py configs/attention_unet/smp_unet_nuclei.py``
"""

from mmengine.config import read_base
from segmentation_models_pytorch import Unet

with read_base():
    from .attention_unet_nuclei import *

model.network = dict(type=Unet, encoder_name="tu-resnet50", encoder_weights=None, in_channels=3, classes=1)
