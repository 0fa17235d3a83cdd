import builtins

import pytest
import torch
from sklearn.datasets import load_digits

from gatedvision.data import Digits


def test_the_held_out_fifth_is_stratified_and_disjoint():
    train, held_out = Digits("train"), Digits("val")
    assert (len(train), len(held_out)) == (1442, 355)
    for label in range(10):
        total = train.labels.count(label) + held_out.labels.count(label)
        assert held_out.labels.count(label) == total // 5
    together = torch.cat([train.images, held_out.images]).mul(16).to(torch.uint8).flatten(1)
    every = torch.from_numpy(load_digits().data).to(torch.uint8)
    assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, every.tolist()))


def test_the_division_is_fixed():
    assert torch.equal(Digits("val").images, Digits("val").images)
    assert Digits("val").labels[:12] == [5, 0, 9, 8, 7, 1, 2, 6, 3, 4, 0, 2]


def test_images_are_one_channel_from_0_to_1():
    dataset = Digits("train")
    sample = dataset[0]
    assert sample["inputs"].shape == (1, 8, 8) and sample["inputs"].dtype == torch.float32
    assert dataset.images.min() == 0 and dataset.images.max() == 1
    assert isinstance(sample["label"], int)
    assert dataset.metainfo["classes"] == list("0123456789")


def test_transform_is_applied_per_sample():
    dataset = Digits("val", transform=lambda image: image + 1)
    assert torch.equal(dataset[3]["inputs"], dataset.images[3] + 1)


def test_unknown_split():
    with pytest.raises(ValueError, match="must be 'train' or 'val', got 'test'"):
        Digits("test")


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    real_import = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'gatedvision\[demo\]'"):
        Digits("train")
