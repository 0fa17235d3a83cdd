"""Data whose random choices depend on seed, epoch and sample alone.

Which samples make a batch follows from the seed and the epoch, and each sample is augmented under a seed of its own.
So a run can stop anywhere and go on in the middle of an epoch without reading what it has seen, and the number of
worker processes, their speed and what they have prefetched change nothing.
"""

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, get_worker_info

from gatedvision.engine.random_state import capture_random_state, restore_random_state


class SampleKey(NamedTuple):
    """Which sample to read, and in which epoch."""

    epoch: int
    sample: int


class SeededDataset(Dataset[Any]):
    """A dataset whose every sample is drawn under a seed made of ``(seed, epoch, sample)``.

    Args:
        dataset: a map-style dataset that takes its random numbers from ``random``, ``numpy.random`` or ``torch``.
        seed: seed of the run.
    """

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        if hasattr(dataset, "metainfo"):
            self.metainfo = dataset.metainfo

    def __len__(self) -> int:
        return len(self.dataset)  # pyright: ignore[reportArgumentType]

    def __getitem__(self, key: SampleKey) -> Any:
        # A worker process has its generators to itself; the training process needs its own ones back.
        kept = capture_random_state() if get_worker_info() is None else None
        seeds = np.random.SeedSequence((self.seed, key.epoch, key.sample)).generate_state(3)
        random.seed(int(seeds[0]))
        np.random.seed(seeds[1])
        torch.default_generator.manual_seed(int(seeds[2]))
        try:
            return self.dataset[key.sample]
        finally:
            if kept is not None:
                restore_random_state(kept)


class EpochBatches(Sampler[list[SampleKey]]):
    """Batches of one epoch, from any batch on.

    Args:
        sampler: gives the indices of an epoch, in this process's share and order; its ``set_epoch`` is called if it
            has one.
        batch_size: samples a batch.
        drop_last: leave out a last batch that is not full.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, drop_last: bool = False) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last
        self._epoch = 0
        self._first_batch = 0

    def start_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose what the next iteration yields.

        Args:
            epoch: number of the epoch, from 0.
            first_batch: number of batches to leave out at its start.
        """
        self._epoch, self._first_batch = epoch, first_batch
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        """Number of batches in a whole epoch."""
        samples = len(self.sampler)  # pyright: ignore[reportArgumentType]
        return samples // self.batch_size if self.drop_last else -(-samples // self.batch_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        keys = [SampleKey(self._epoch, index) for index in self.sampler]
        for batch in range(self._first_batch, len(self)):
            yield keys[batch * self.batch_size : (batch + 1) * self.batch_size]
