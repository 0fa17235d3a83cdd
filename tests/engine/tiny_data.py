"""What the tiny run of these tests is made of: a dataset without files, and hooks that break the run."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from torch import Tensor
from torch.utils.data import Dataset


class TinyImages(Dataset[dict[str, Any]]):
    """Noise images of 4 classes whose mean tells the class, under noise from all three generators."""

    def __init__(self, length: int = 22, num_classes: int = 4, noise: float = 0.1, broken: bool = False) -> None:
        generator = torch.Generator().manual_seed(0)
        self.labels = [index % num_classes for index in range(length)]
        self.images = torch.randn(length, 3, 8, 8, generator=generator) + torch.tensor(self.labels)[:, None, None, None]
        self.metainfo = {"classes": [str(label) for label in range(num_classes)]}
        self.noise = noise
        self.broken = broken

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.broken and index == 3:
            raise ValueError("sample 3 is broken: no such thing")
        noise = torch.randn(3, 8, 8) + random.random() + np.random.rand()
        inputs = (self.images[index] + self.noise * noise).to(torch.get_default_dtype())
        return {"inputs": inputs, "label": self.labels[index]}


def collate(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Stack samples."""
    labels = torch.tensor([sample["label"] for sample in samples])
    return {"inputs": torch.stack([sample["inputs"] for sample in samples]), "labels": labels}


class Consecutive(DefaultSampler):
    """Gives the processes parts of each joined batch that lie one behind the other; mmengine's take turns.

    So the processes' batches one after the other are the batch of one process alone, and cut into the same groups.
    """

    def __init__(self, dataset: Any, batch_size: int, seed: int | None = None) -> None:
        super().__init__(dataset, shuffle=True, seed=seed)
        self.joined = batch_size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.dataset), generator=generator)
        yield from order.view(-1, self.world_size, self.joined // self.world_size)[:, self.rank].flatten().tolist()


class InterruptionError(RuntimeError):
    """The run broke off."""


class Interrupt(Hook):
    """Breaks off after an iteration, in the middle of a validation, or in the middle of writing a checkpoint."""

    def __init__(self, iteration: int = -1, val_epoch: int = -1, write: str = "", kill: bool = False) -> None:
        self.iteration = iteration
        self.val_epoch = val_epoch
        self.write = write
        self.kill = kill

    def break_off(self) -> None:
        if self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        raise InterruptionError

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter + 1 == self.iteration:
            self.break_off()

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.epoch == self.val_epoch:
            self.break_off()

    def before_train(self, runner: Any) -> None:
        if not self.write:
            return
        save = torch.save

        def save_half(content: Any, file: Any) -> None:
            save(content, file)
            if Path(file.name).name == f".{self.write}.unfinished":
                file.truncate(file.tell() // 2)
                file.flush()
                torch.save = save
                self.break_off()

        torch.save = save_half


class Poison(Hook):
    """Makes the weights, and with them the next loss, NaN after an iteration."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter + 1 == self.iteration:
            next(runner.model.parameters()).data.fill_(float("nan"))


class RecordRates(Hook):
    """Notes the learning rate of each iteration."""

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        rates = [*runner.message_hub.runtime_info.get("rates", []), runner.optim_wrapper.get_lr()["lr"][0]]
        runner.message_hub.update_info("rates", rates)
