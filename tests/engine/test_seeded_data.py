import random

import numpy as np
import pytest
import torch
from tiny_data import TinyImages, collate
from torch.utils.data import SequentialSampler

from gatedvision.engine import Runner
from gatedvision.engine.random_state import capture_random_state, restore_random_state
from gatedvision.engine.seeded_data import EpochBatches, SampleKey, SeededDataset


def build_loader(num_workers: int = 0, batch_size: int = 4, **options):
    return Runner.build_dataloader(
        {
            "dataset": TinyImages(10),
            "sampler": {"type": "DefaultSampler", "shuffle": True},
            "batch_size": batch_size,
            "num_workers": num_workers,
            "collate_fn": {"type": collate},
            **options,
        },
        seed=5,
    )


def epoch_of(loader, epoch: int, first_batch: int = 0) -> list[torch.Tensor]:
    loader.batch_sampler.start_epoch(epoch, first_batch)
    return [batch["inputs"] for batch in loader]


def test_worker_processes_change_nothing():
    alone = build_loader()
    for options in ({"num_workers": 1}, {"num_workers": 2, "persistent_workers": True}):
        loader = build_loader(**options)
        for epoch in (0, 1):
            torch.testing.assert_close(epoch_of(loader, epoch), epoch_of(alone, epoch), rtol=0, atol=0)


def test_epochs_and_samples_differ():
    dataset = SeededDataset(TinyImages(4), seed=5)
    seen = [dataset[SampleKey(epoch, 0)]["inputs"] for epoch in (0, 1)]
    seen.append(SeededDataset(TinyImages(4), seed=6)[SampleKey(0, 0)]["inputs"])
    assert not any(torch.equal(seen[i], seen[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert torch.equal(seen[0], dataset[SampleKey(0, 0)]["inputs"])


def test_an_epoch_can_start_anywhere():
    loader = build_loader()
    whole = epoch_of(loader, 3)
    torch.testing.assert_close(epoch_of(loader, 3, first_batch=2), whole[2:], rtol=0, atol=0)
    assert epoch_of(loader, 3, first_batch=3) == []
    assert len(loader) == 3


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [4, 4, 2]), (True, [4, 4])])
def test_last_batch(drop_last, sizes):
    batches = EpochBatches(SequentialSampler(range(10)), 4, drop_last)
    batches.start_epoch(2)
    assert [len(batch) for batch in batches] == sizes
    assert len(batches) == len(sizes)
    assert next(iter(batches))[0] == SampleKey(2, 0)


def test_reading_in_this_process_leaves_its_generators_alone():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    state = capture_random_state()
    expected = draw()
    restore_random_state(state)
    epoch_of(build_loader(), 0)
    epoch_of(build_loader(num_workers=1), 0)
    assert draw() == expected


def test_a_failing_sample_leaves_the_generators_alone_too():
    state = torch.get_rng_state()
    with pytest.raises(IndexError):
        SeededDataset(TinyImages(4), seed=0)[SampleKey(0, 99)]
    assert torch.equal(torch.get_rng_state(), state)
