"""The 3x schedule of detection on COCO: 36 epochs of AdamW, the rate a tenth of itself after the 27th and the 33rd.

Learning rates hold for a total batch of 16 images and are scaled to the real one.
"""

from mmengine.config import read_base

with read_base():
    from .detection_1x import *

train_cfg.max_epochs = 36
param_scheduler[1].milestones = [27, 33]
