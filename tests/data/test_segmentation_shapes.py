import pytest
import torch

from gatedvision.data import ShapesSegmentation


def test_shapes_are_labelled_where_they_are():
    dataset = ShapesSegmentation("train", length=12, size=64)
    assert dataset.metainfo["classes"] == ["background", "circle", "square", "triangle"]
    sample, again = dataset[3], ShapesSegmentation("train", length=4, size=64)[3]
    assert torch.equal(sample["inputs"], again["inputs"]) and sample["name"] == "train_00003"
    counts = torch.zeros(4)
    for index in range(len(dataset)):
        sample = dataset[index]
        assert sample["inputs"].shape == (3, 64, 64) and sample["labels"].shape == (64, 64)
        counts += torch.bincount(sample["labels"].flatten(), minlength=4)
        # A shape has one colour, so its neighbouring pixels do not differ.
        both = (sample["labels"][:, 1:] == sample["labels"][:, :-1]) & (sample["labels"][:, 1:] > 0)
        same = (sample["inputs"][:, :, 1:] == sample["inputs"][:, :, :-1]).all(0)
        assert same[both].float().mean() > 0.95
    assert (counts > 0).all() and counts.argmax() == 0
    with pytest.raises(ValueError, match="'train' or 'val', got 'test'"):
        ShapesSegmentation("test")
