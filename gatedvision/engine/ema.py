"""Moving average of the weights."""

from typing import Any

from mmengine.hooks import EMAHook
from mmengine.runner import Runner


class EMA(EMAHook):
    """Keeps a moving average of the weights, and evaluates and saves it in place of the weights in training.

    While training, validation sees the average. A checkpoint's ``state_dict`` holds the average and its
    ``ema_state_dict`` the weights in training (mmengine swaps them, so that whoever loads ``state_dict`` gets the
    better weights); ``tools/test.py --weights raw`` evaluates the latter.

    Args:
        momentum: weight of the newest parameters, 1 - decay.
        **kwargs: further arguments of mmengine's ``EMAHook``.
    """

    def __init__(self, momentum: float = 1e-4, **kwargs: Any) -> None:
        super().__init__(strict_load=True, momentum=momentum, **kwargs)

    def before_val_epoch(self, runner: Runner) -> None:
        """Evaluate the average, and say so.

        Args:
            runner: the run.
        """
        runner.logger.info("evaluating the moving average (EMA) of the weights")
        super().before_val_epoch(runner)
