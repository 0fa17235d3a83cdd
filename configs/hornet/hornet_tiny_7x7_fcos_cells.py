"""FCOS on HorNet-T 7x7 from scratch, on blood cells (BCCD).

Another backbone trains under the same conditions with ``--cfg-options model.backbone.model_name=resnet50``.
Command: ``GATEDVISION_DATA=/path/to/data python tools/train.py configs/hornet/hornet_tiny_7x7_fcos_cells.py``
"""

from mmengine.config import read_base

from gatedvision.tasks import Detection

with read_base():
    from .._base_.cells import *
    from .._base_.detection_small import *

model = dict(
    type=Detection,
    backbone=dict(model_name="hornet_tiny_7x7", drop_path_rate=0.1),
    num_classes=3,
    detector="fcos",
    norm_maps=True,
    min_size=(416, 448, 512, 544, 480),
    max_size=800,
)
train_cfg.update(max_epochs=120, val_interval=10)
amp = "bf16"
