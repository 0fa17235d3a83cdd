"""Training by epochs that can start anywhere, and evaluation in the precision of the training."""

import math
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import EpochBasedTrainLoop
from mmengine.runner import TestLoop as MMEngineTestLoop
from mmengine.runner import ValLoop as MMEngineValLoop

from gatedvision.engine.amp import AmpOptimWrapper, autocast, log_grad_norms
from gatedvision.engine.checkpoint_file import list_checkpoints
from gatedvision.engine.checkpoint_hook import NonFiniteError
from gatedvision.engine.distributed import share_buffers
from gatedvision.engine.seeded_data import EpochBatches
from gatedvision.engine.several_optimizers import each_optimizer
from gatedvision.engine.step_numbers import read_numbers
from gatedvision.engine.training_state import restore_process_state

# Values that the history of a scalar keeps. mmengine copies a history to add a value to it, and by the end of 300
# epochs of ImageNet that would take 3 ms of each iteration, and 30 MB of each checkpoint.
HISTORY_LENGTH = 10_000


class TrainLoop(EpochBasedTrainLoop):
    """Epochs of training with validation between them.

    Args are those of mmengine's ``EpochBasedTrainLoop``: ``max_epochs``, ``val_begin``, ``val_interval``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        batches = self.dataloader.batch_sampler
        if not isinstance(batches, EpochBatches):
            raise ValueError("train_dataloader has to be a config, from which the Runner builds the loader")
        if not len(batches):
            raise ValueError(f"too few training samples: no process has a full batch of {batches.batch_size}")
        self._batches = batches
        self._first_batch = 0
        self._process_state: dict[str, Any] | None = None

    def start_from(self, epoch: int, iteration: int, process_state: dict[str, Any] | None) -> None:
        """Go on where another run stopped.

        Args:
            epoch: finished epochs.
            iteration: finished iterations, counted from the start of the training.
            process_state: what else this process had then; ``None`` if nobody knows.
        """
        self._epoch, self._iter = epoch, iteration
        self._first_batch = iteration - epoch * len(self.dataloader)
        self._process_state = process_state

    def run(self) -> torch.nn.Module:
        """Train to the end.

        Returns:
            The model.
        """
        self.runner.call_hook("before_train")
        if self._process_state is not None:
            restore_process_state(self.runner, self._process_state)
        # A checkpoint is saved before the validation of its epoch, which the interrupted run may not have reached.
        if self._epoch > 0 and self._first_batch == 0:
            self._validate_if_due()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate_if_due()
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_epoch(self) -> None:
        """Train one epoch, or the rest of it."""
        for history in self.runner.message_hub.log_scalars.values():
            history.max_length = HISTORY_LENGTH
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        first_batch, self._first_batch = self._first_batch, 0
        self._batches.start_epoch(self._epoch, first_batch)
        for idx, data_batch in enumerate(self.dataloader, start=first_batch):
            self.run_iter(idx, data_batch)
        share_buffers(self.runner.model)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Train one iteration.

        Args:
            idx: number of the batch within the epoch.
            data_batch: the batch.

        Raises:
            NonFiniteError: the loss, or one of several, is infinite or NaN.
        """
        self.runner.call_hook("before_train_iter", batch_idx=idx, data_batch=data_batch)
        # Autograd would run the backward pass in a thread of its own, in which Python is far slower: ViG-S takes 77 ms
        # a step with that thread and 48 ms without (H200, torch 2.11, bf16, batch 128, not compiled).
        with torch.autograd.set_multithreading_enabled(False):
            outputs = self.runner.model.train_step(data_batch, optim_wrapper=self.runner.optim_wrapper)
        wrappers = each_optimizer(self.runner.optim_wrapper)
        known = [wrapper.forward_done for wrapper in wrappers.values() if isinstance(wrapper, AmpOptimWrapper)]
        # The history wants numbers anyway. They are known before the last backward pass, on which the GPU goes on.
        outputs = read_numbers(outputs, known)
        for name, value in outputs.items():
            if "loss" in name and not math.isfinite(value):
                raise NonFiniteError(self._describe_divergence(idx, name, value))
        log_grad_norms(self.runner)
        self.runner.call_hook("after_train_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)
        self._iter += 1

    def _describe_divergence(self, idx: int, name: str, value: float) -> str:
        place = f"iteration {self._iter + 1} (epoch {self._epoch + 1}, batch {idx + 1} of {len(self.dataloader)})"
        saved = list_checkpoints(Path(self.runner.work_dir)) if self._iter > 0 else []
        last = f"the last good checkpoint is {saved[0]}" if saved else "there is no checkpoint yet"
        return f"{'the loss' if name == 'loss' else name} is {value} at {place}; {last}"

    def _validate_if_due(self) -> None:
        self._decide_current_val_interval()
        is_due = self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
        if self.runner.val_loop is not None and self._epoch >= self.val_begin and is_due:
            self.runner.val_loop.run()


class ValLoop(MMEngineValLoop):
    """Validation during training, under the autocast of the training."""

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Evaluate one batch.

        Args:
            idx: number of the batch.
            data_batch: the batch.
        """
        _evaluate_batch(self, "val", idx, data_batch)


class TestLoop(MMEngineTestLoop):
    """Evaluation of a checkpoint."""

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Evaluate one batch.

        Args:
            idx: number of the batch.
            data_batch: the batch.
        """
        _evaluate_batch(self, "test", idx, data_batch)


@torch.no_grad()
def _evaluate_batch(loop: ValLoop | TestLoop, mode: str, idx: int, data_batch: Any) -> None:
    # mmengine's loops would open an autocast of their own, in float16 or not at all.
    runner = loop.runner
    runner.call_hook(f"before_{mode}_iter", batch_idx=idx, data_batch=data_batch)
    with autocast(runner.cfg.get("amp")):
        outputs = getattr(runner.model, f"{mode}_step")(data_batch)
    loop.evaluator.process(data_samples=outputs, data_batch=data_batch)
    runner.call_hook(f"after_{mode}_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)
