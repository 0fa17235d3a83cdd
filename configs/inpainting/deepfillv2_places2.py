"""DeepFill v2 on Places2 (Places365), 256 x 256, as published.

J. Yu et al., Free-Form Image Inpainting with Gated Convolution, arXiv:1806.03589, and its program's settings: L1 on
both stages and SN-PatchGAN with equal weights, Adam 1e-4 with betas 0.5 and 0.999, 16 images a step. The program has
no last step; this stops after a million (18 epochs).
Published: figures for masks that were not. Not repeated here.
Command: ``python tools/train.py configs/inpainting/deepfillv2_places2.py``
"""

from mmengine.config import read_base

from gatedvision.tasks import Inpainting

with read_base():
    from .._base_.inpainting_published import *
    from .._base_.places365_inpainting import *

model = dict(type=Inpainting, generator=dict(model_name="deepfillv2"), gan_weight=1.0, separate_batches=True)
train_cfg = dict(by_epoch=True, max_epochs=18)
