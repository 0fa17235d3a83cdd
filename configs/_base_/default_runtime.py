"""What every run has in common: logging, checkpoints, seed. Import it first, then describe model, data and schedule."""

from mmengine.hooks import IterTimerHook, LoggerHook, ParamSchedulerHook, RuntimeInfoHook
from mmengine.visualization import LocalVisBackend, TensorboardVisBackend, Visualizer

from gatedvision.engine import Progress, SaveCheckpoints

default_hooks = dict(
    runtime_info=dict(type=RuntimeInfoHook),
    timer=dict(type=IterTimerHook),
    # Validation rows are placed at their iteration, where the training rows are.
    logger=dict(type=LoggerHook, interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=SaveCheckpoints, interval=1, keep=2, save_best="accuracy/top1"),
    # The engine tells the samplers the epoch itself.
    sampler_seed=None,
)
log_processor = dict(type=Progress, window_size=10)
# Without the tensorboard package only the JSON file is written.
visualizer = dict(type=Visualizer, vis_backends=[dict(type=LocalVisBackend), dict(type=TensorboardVisBackend)])
randomness = dict(seed=0)
amp = None
