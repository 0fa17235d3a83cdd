import pytest
import torch

from gatedvision.data import ShapesDetection

pytest.importorskip("faster_coco_eval")
pytest.importorskip("skimage")


def test_boxes_are_those_of_the_masks():
    dataset = ShapesDetection("train", length=6, size=64, with_masks=True)
    labels = set()
    for index in range(len(dataset)):
        sample = dataset[index]
        target = sample["target"]
        assert sample["inputs"].shape == (3, 64, 64) and target["masks"].shape[1:] == (64, 64)
        assert (target["masks"].sum(0) <= 1).all(), "a pixel shows one shape"
        for box, mask in zip(target["boxes"].tolist(), target["masks"], strict=True):
            rows, columns = mask.nonzero(as_tuple=True)
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box == [float(edge) for edge in edges]
        areas = [item.area for item in dataset.annotations.objects(index)]
        assert areas == target["masks"].flatten(1).sum(1).tolist()
        labels |= set(target["labels"].tolist())
    assert labels == {0, 1, 2} and dataset.metainfo["classes"] == ["circle", "square", "triangle"]


def test_images_depend_on_the_split_alone():
    train, again, val = (ShapesDetection(split, length=2, size=48) for split in ("train", "train", "val"))
    assert torch.equal(train[1]["inputs"], again[1]["inputs"])
    assert not torch.equal(train[1]["inputs"], val[1]["inputs"])


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="got 'test'"):
        ShapesDetection("test")
    with pytest.raises(ValueError, match="length=0 and size=64"):
        ShapesDetection("val", length=0, size=64)
