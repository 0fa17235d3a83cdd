import json
from pathlib import Path

import albumentations as A
import numpy as np
import pytest
import torch
from PIL import Image

from gatedvision.data import (
    FreeFormMask,
    InpaintingFolder,
    InpaintingPairs,
    InpaintingPhotographs,
    collate_inpainting,
)
from tests.data.inpainting_files import write, write_images, write_masks


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three images of different sizes, with sketches, and two masks."""
    write_images(tmp_path / "images")
    write_masks(tmp_path / "masks")
    return tmp_path


def test_a_folder_of_images_of_any_size(folder):
    data = InpaintingFolder(folder / "images", folder / "masks")
    # An image that only ends like a sketch is an image; its sketch ends like this twice.
    assert [sample["name"] for sample in (data[index] for index in range(3))] == ["a/c", "a/d_edge", "b"]
    sample = data[2]
    assert sample["inputs"].shape == (3, 40, 50) and sample["mask"].shape == (1, 40, 50)
    assert sample["inputs"].dtype == sample["mask"].dtype == torch.uint8
    np.testing.assert_array_equal(
        sample["inputs"].permute(1, 2, 0).numpy(), np.asarray(Image.open(folder / "images" / "b.png"))
    )
    # Matched by index, beginning anew; stretched to the image.
    assert sample["mask"][0, :, :25].all() and not sample["mask"][0, :, 25:].any()
    assert not data[1]["mask"][0, :, :32].any() and data[1]["mask"][0, :, 32:].all()
    assert data[0]["mask"].shape == (1, 20, 90) and "sketch" not in sample
    with pytest.raises(IndexError, match="image 3 of 3"):
        data[3]


def test_sketches_follow_their_images_and_are_divided_at_six_tenths(folder):
    flip = [A.HorizontalFlip(p=1.0)]
    data = InpaintingFolder(folder / "images", folder / "masks", flip, with_sketch=True)
    lines = np.asarray(Image.open(folder / "images" / "b_edge.png")) > 153
    np.testing.assert_array_equal(data[2]["sketch"][0].numpy(), lines[:, ::-1])
    (folder / "images" / "b_edge.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 images have no sketch.*add 'b_edge.png' beside it"):
        InpaintingFolder(folder / "images", folder / "masks", with_sketch=True)
    write(folder / "images" / "b_edge.png", 8, 8, mode="L")
    data = InpaintingFolder(folder / "images", folder / "masks", with_sketch=True)
    with pytest.raises(ValueError, match=r"50x40 pixels, its sketch of 8x8"):
        data[2]


def test_fixed_pairs(folder):
    records = [
        {"index": 0, "mask": "masks/1.png", "image": "images/b.png"},
        {"mask": "masks/0.png", "image": "images/a/c.png"},
    ]
    path = folder / "pairs.json"
    path.write_text(json.dumps(records))
    data = InpaintingPairs(path, with_sketch=True)
    assert len(data) == 2 and [data[index]["name"] for index in range(2)] == ["000_b", "001_c"]
    assert not data[0]["mask"][0, :, :25].any() and data[0]["mask"][0, :, 25:].all()
    assert data[1]["mask"].shape == data[1]["sketch"].shape == (1, 20, 90)
    batch = collate_inpainting([data[0], data[1]])
    assert [image.shape for image in batch["inputs"]] == [(3, 40, 50), (3, 20, 90)]
    assert batch["names"] == ["000_b", "001_c"]

    for content, message in (("{", "is no list of pairs"), ("[]", "lists no pairs"), ('[{"image": "x"}]', "KeyError")):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            InpaintingPairs(path)
    path.write_text(json.dumps([{"image": "images/b.png", "mask": "masks/9.png"}]))
    with pytest.raises(FileNotFoundError, match=r"masks/9.png', which pair 0 of '.*pairs.json' names"):
        InpaintingPairs(path)


def test_photographs_of_training_and_validation_do_not_overlap():
    train = InpaintingPhotographs("train", 12, 32, FreeFormMask(rectangle=0))
    val = InpaintingPhotographs("val", 30, 32)
    torch.manual_seed(0)
    first = train[0]["inputs"]
    assert first.shape == (3, 32, 32) and not torch.equal(train[0]["inputs"], first)
    before = torch.get_rng_state()
    samples = [val[index] for index in range(30)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(val[index]["inputs"], samples[index]["inputs"]) for index in (0, 29))
    shares = torch.stack([sample["mask"].float().mean() for sample in samples]).view(5, 6)
    for number, row in enumerate(shares):
        assert 0.1 * number <= row.min() and row.max() <= 0.1 * number + 0.1 + 1e-6 and row.min() > 0.009
    for photograph in val._photographs:
        assert photograph.shape[1] // 4 >= 112 and photograph.shape[2] == 3


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda f: InpaintingFolder(f / "nowhere", f / "masks"), FileNotFoundError, "no data folder '.*nowhere'"),
        (lambda f: InpaintingFolder(f / "images", f / "nowhere"), FileNotFoundError, "no folder of masks '.*nowhere'"),
        (lambda f: InpaintingFolder(f / "images", None), TypeError, "masks must be a folder, .* got None"),
        (lambda f: InpaintingFolder(f / "images", f / "masks", repeats=0), ValueError, "repeats must be at least 1"),
        (lambda f: InpaintingPairs(f / "pairs.json"), FileNotFoundError, "no list of pairs '.*pairs.json'"),
        (lambda f: InpaintingPhotographs("test"), ValueError, "must be 'train' or 'val', got 'test'"),
        (lambda f: InpaintingPhotographs("val", size=113), ValueError, "size 16 to 112, got .*size=113"),
    ],
)
def test_mistakes_are_named(folder, make, error, message):
    with pytest.raises(error, match=message):
        make(folder)
