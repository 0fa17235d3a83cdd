import pytest
import torch
from torch.utils.data import DataLoader

from gatedvision.data import collate_samples


def test_inputs_are_stacked_and_labels_are_int64():
    images = torch.arange(24.0).reshape(2, 3, 2, 2)
    batch = collate_samples([{"inputs": images[0], "label": 4}, {"inputs": images[1], "label": 1}])
    assert torch.equal(batch["inputs"], images)
    assert torch.equal(batch["labels"], torch.tensor([4, 1])) and batch["labels"].dtype == torch.int64


def test_a_worker_process_delivers_the_same_batch():
    samples = [{"inputs": torch.rand(3, 2, 4), "label": label} for label in range(4)]
    [batch] = DataLoader(samples, batch_size=4, num_workers=1, collate_fn=collate_samples)
    torch.testing.assert_close(batch, collate_samples(samples), rtol=0, atol=0)


def test_different_shapes_are_named():
    samples = [{"inputs": torch.zeros(3, 2, 2), "label": 0}, {"inputs": torch.zeros(3, 2, 4), "label": 0}]
    with pytest.raises(ValueError, match=r"differ in shape: \[\(3, 2, 2\), \(3, 2, 4\)\]"):
        collate_samples(samples)
