"""Saves the last and the best checkpoint of a run."""

from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from gatedvision.engine.checkpoint_file import LAST_CHECKPOINT, list_checkpoints, remove_unfinished, write_atomically
from gatedvision.engine.training_state import capture_training_state, is_finite


class NonFiniteError(RuntimeError):
    """The training has diverged: a loss or a weight is infinite or NaN."""


class SaveCheckpoints(Hook):
    """Keeps the last checkpoints, complete for resuming, and the weights of the best one.

    An old file goes only after the new one is safely on the disk, so there is a good checkpoint at every moment after
    the first. ``last_checkpoint`` holds the name of the newest inside the work directory, which may be moved.

    Args:
        interval: epochs (or iterations) between checkpoints; the last one of the training is always saved.
        by_epoch: count epochs, else iterations.
        keep: number of last checkpoints that stay.
        save_best: name of the metric whose highest value marks the best checkpoint; ``None`` saves none.

    Raises:
        ValueError: ``interval`` or ``keep`` is less than one.
    """

    # After everything else of the same moment, so that a checkpoint holds the state the next step starts from.
    priority = "LOWEST"

    def __init__(
        self, interval: int = 1, by_epoch: bool = True, keep: int = 2, save_best: str | None = "accuracy/top1"
    ) -> None:
        if interval < 1 or keep < 1:
            raise ValueError(f"interval and keep must be at least 1, got interval={interval} and keep={keep}")
        self.interval = interval
        self.by_epoch = by_epoch
        self.keep = keep
        self.save_best = save_best
        self._kept: list[str] = []

    def before_train(self, runner: Runner) -> None:
        """Clean up after an interrupted run, and take over its checkpoints if this one resumes it in its folder.

        Args:
            runner: the run.
        """
        if runner.rank != 0:
            return
        folder = Path(runner.work_dir)
        remove_unfinished(folder)
        earlier = [path.name for path in reversed(list_checkpoints(folder))]
        source = Path(runner._load_from or folder)
        if runner.iter > 0 and folder.resolve() in (source.resolve(), source.resolve().parent):
            self._kept = earlier
        elif earlier:
            runner.logger.warning(f"{folder} holds checkpoints of an earlier run, which this one will overwrite")

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Save a checkpoint if one is due after this iteration.

        Args:
            runner: the run.
            batch_idx: number of the batch within the epoch.
            data_batch: unused.
            outputs: unused.
        """
        if not self.by_epoch and (self.every_n_train_iters(runner, self.interval) or self.is_last_train_iter(runner)):
            self._save_last(runner, f"iter_{runner.iter + 1}.pth", runner.epoch, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Save a checkpoint if one is due after this epoch.

        Args:
            runner: the run.
        """
        if self.by_epoch and (self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner)):
            self._save_last(runner, f"epoch_{runner.epoch + 1}.pth", runner.epoch + 1, runner.iter)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Save the weights if they are the best so far.

        Args:
            runner: the run.
            metrics: metrics of this validation.

        Raises:
            ValueError: the metric that decides is not among them.
        """
        if self.save_best is None or not metrics:
            return
        if self.save_best not in metrics:
            raise ValueError(f"save_best={self.save_best!r} is none of the metrics {', '.join(metrics)}")
        score, info = metrics[self.save_best], runner.message_hub.runtime_info
        if score <= info.get("best_score", float("-inf")):
            return
        progress = f"epoch_{runner.epoch}" if self.by_epoch else f"iter_{runner.iter}"
        name, previous = f"best_{self.save_best.replace('/', '_')}_{progress}.pth", info.get("best_checkpoint")
        self._save(runner, name, runner.epoch, runner.iter, with_optimizer=False)
        runner.message_hub.update_info("best_score", score)
        runner.message_hub.update_info("best_checkpoint", name)
        runner.logger.info(f"best {self.save_best} so far, {score:.4f}: saved {name}")
        if previous not in (None, name) and runner.rank == 0:
            (Path(runner.work_dir) / str(previous)).unlink(missing_ok=True)

    def _save_last(self, runner: Runner, name: str, epoch: int, iteration: int) -> None:
        self._save(runner, name, epoch, iteration, with_optimizer=True)
        if runner.rank != 0:
            return
        folder = Path(runner.work_dir)
        write_atomically(name + "\n", folder / LAST_CHECKPOINT)
        runner.logger.info(f"saved {name}")
        self._kept = [kept for kept in self._kept if kept != name] + [name]
        while len(self._kept) > self.keep:
            (folder / self._kept.pop(0)).unlink(missing_ok=True)

    def _save(self, runner: Runner, name: str, epoch: int, iteration: int, with_optimizer: bool) -> None:
        checkpoint = capture_training_state(runner, epoch, iteration, with_optimizer)
        if checkpoint is None:
            return
        if not is_finite(checkpoint["state_dict"]):
            raise NonFiniteError(f"a weight is not finite after iteration {iteration}, so {name} was not saved")
        write_atomically(checkpoint, Path(runner.work_dir) / name)
