"""DeepFill v2 from scratch on 400 images of 256 x 256, evaluated on 100 fixed pairs of image and hole.

So few images do not bear the full adversarial weight; a tenth is what others use against blobs of colour. The
published one: ``--cfg-options model.gan_weight=1.0``.
Command: ``GATEDVISION_DATA=/path/to/data python tools/train.py configs/inpainting/deepfillv2_inpaint256.py``
"""

from mmengine.config import read_base

from gatedvision.tasks import Inpainting

with read_base():
    from .._base_.inpaint256 import *
    from .._base_.inpainting_small import *

model = dict(type=Inpainting, generator=dict(model_name="deepfillv2"), gan_weight=0.1)
amp = "bf16"
