import numpy as np
import pytest
import torch

from gatedvision.data import GeneratedOrgans, RandomPatch


@pytest.mark.parametrize(("size", "kinds"), [((32, 32, 32), 3), ((16, 20, 24), 2), ((64, 48), 3), ((16, 16), 1)])
def test_a_sample(size, kinds):
    dataset = GeneratedOrgans("train", 3, size, kinds, channels=2)
    assert len(dataset) == 3 and len(dataset.metainfo["classes"]) == kinds + 1
    sample = dataset[1]
    assert sample["inputs"].shape == (2, *size) and sample["inputs"].dtype == torch.float32
    assert sample["labels"].shape == size and sample["labels"].dtype == torch.uint8
    assert sample["labels"].unique().tolist() == [*range(kinds + 1)]
    assert ("spacing" in sample) == (len(size) == 3) and sample["name"] == "train_00001"
    assert abs(sample["inputs"].mean()) < 1e-4 and sample["inputs"].std() == pytest.approx(1, abs=1e-2)


def test_scans_are_the_same_each_time_and_differ_from_each_other():
    train, again, val = (GeneratedOrgans(split, 4) for split in ("train", "train", "val"))
    longer = GeneratedOrgans("train", 6)
    for index in range(4):
        for other in (again, longer):
            assert torch.equal(train[index]["inputs"], other[index]["inputs"])
        assert not torch.equal(train[index]["inputs"], val[index]["inputs"])
    assert not torch.equal(train[0]["labels"], train[1]["labels"])


def test_no_threshold_finds_an_organ():
    # Intensities of the kinds overlap, and clutter is as bright.
    samples = [*GeneratedOrgans("val", 4)]
    values, labels = (
        np.concatenate([sample[key].numpy().ravel() for sample in samples]) for key in ("inputs", "labels")
    )
    for number in (1, 2, 3):
        means = []
        for low in np.percentile(values, range(50, 100, 5)):
            for high in np.percentile(values, range(55, 101, 5)):
                found, organ = (values >= low) & (values <= high), labels == number
                means.append(2 * (found & organ).sum() / (found.sum() + organ.sum()))
        assert max(means) < 0.75
    shares = [np.mean(labels == number) for number in (1, 2, 3)]
    assert shares[0] > shares[1] > shares[2] > 0.004


def test_a_patch_is_cut_out():
    sample = GeneratedOrgans("train", 1, patch=dict(type=RandomPatch, size=(8, 8, 8), foreground=1.0))[0]
    assert sample["inputs"].shape == (1, 8, 8, 8) and sample["labels"].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "split of the organs must be 'train' or 'val', got 'test'"),
        ({"length": 0}, "length must be at least 1 and size two or three sides of 16 or more, got 0"),
        ({"size": (8, 32)}, r"sides of 16 or more, got 32, \(8, 32\)"),
        ({"kinds": 4}, "kinds must be 1 to 3, got 4"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        GeneratedOrgans(**{"split": "train", **options})
