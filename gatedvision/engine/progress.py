"""Lines and rows that say how a run is doing."""

import resource
import sys
from typing import Any

from mmengine.runner import LogProcessor, Runner


class Progress(LogProcessor):
    """mmengine's log lines with the rate in images per second and, without a GPU, the memory of the process.

    Rows in ``scalars.json`` and TensorBoard carry both ``iter`` and ``epoch``, and the loss of a validation is called
    ``val_loss``, so that its curve stays apart from the training's ``loss``. The parts of a loss are averaged over the
    window as the loss is.

    Args:
        **kwargs: arguments of mmengine's ``LogProcessor``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"mean_pattern": r".*(loss|time|grad_norm|cross_entropy|auxiliary).*", **kwargs})

    def get_log_after_iter(self, runner: Runner, batch_idx: int, mode: str) -> tuple[dict[str, Any], str]:
        """Describe the latest iterations.

        Args:
            runner: the run.
            batch_idx: number of the batch.
            mode: ``"train"``, ``"val"`` or ``"test"``.

        Returns:
            The row and the line.
        """
        row, line = super().get_log_after_iter(runner, batch_idx, mode)
        batch_size = getattr(runner, f"{mode}_dataloader").batch_sampler.batch_size * runner.world_size
        row["images_per_second"] = batch_size / row["time"]
        line += f"  images/s: {row['images_per_second']:.1f}"
        if "memory" not in row:
            row["memory"] = _peak_memory_mib()
            line += f"  memory: {row['memory']}"
        return row, line

    def get_log_after_epoch(
        self, runner: Runner, batch_idx: int, mode: str, with_non_scalar: bool = False
    ) -> tuple[dict[str, Any], str]:
        """Describe an evaluation.

        Args:
            runner: the run.
            batch_idx: number of batches.
            mode: ``"val"`` or ``"test"``.
            with_non_scalar: include values that are no numbers.

        Returns:
            The row and the line.
        """
        # mmengine smooths everything called loss over the window, here over the last evaluations.
        window, self.window_size = self.window_size, 1
        row, line = super().get_log_after_epoch(runner, batch_idx, mode, with_non_scalar)
        self.window_size = window
        if mode == "val":
            row["val_loss"] = row.pop("loss", None)
            row = {name: value for name, value in row.items() if value is not None}
            row |= {"epoch": runner.epoch, "iter": runner.iter}
        return row, line


def _peak_memory_mib() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 2**20 if sys.platform == "darwin" else peak // 2**10
