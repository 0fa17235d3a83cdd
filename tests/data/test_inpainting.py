import json
from pathlib import Path

import albumentations as A
import numpy as np
import pytest
import torch
from PIL import Image

from gatedvision.data import (
    EnlargeToCover,
    FreeFormMask,
    InpaintingFolder,
    InpaintingPairs,
    InpaintingPhotographs,
    MaskFolder,
    UnreadableImageError,
    collate_inpainting,
)
from gatedvision.data.mask_folder import read_mask


def write(path: Path, height: int, width: int, mode: str = "RGB", seed: int = 0) -> np.ndarray:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three images of different sizes, with sketches, and two masks."""
    for number, (name, size) in enumerate({"b.png": (40, 50), "a/c.png": (20, 90), "a/d_edge.png": (64, 64)}.items()):
        write(tmp_path / "images" / name, *size, seed=number)
        sketch = Path(tmp_path / "images" / name)
        write(sketch.with_name(f"{sketch.stem}_edge.png"), *size, mode="L", seed=number + 10)
    for number in range(2):
        hole = np.zeros((40, 50), dtype=np.uint8)
        hole[:, number * 25 : (number + 1) * 25] = 255
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(hole).save(tmp_path / "masks" / f"{number}.png")
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


def test_small_images_are_enlarged_until_the_crop_fits(folder):
    transforms = [EnlargeToCover(48, 64), A.RandomCrop(48, 64), {"type": A.HorizontalFlip, "p": 0.5}]
    data = InpaintingFolder(folder / "images", {"type": FreeFormMask}, transforms, with_sketch=True, repeats=2)
    assert len(data) == 6
    batch = collate_inpainting([data[index] for index in range(6)])
    assert batch["inputs"].shape == (6, 3, 48, 64)
    assert batch["masks"].shape == batch["sketches"].shape == (6, 1, 48, 64)
    # Holes are drawn for each sample, each time.
    assert len({mask.numpy().tobytes() for mask in batch["masks"]}) == 6
    assert 0.05 < batch["masks"].float().mean() < 0.7
    # Large enough, or too small in one side only.
    for height, width, expected in ((50, 70, (50, 70)), (10, 640, (48, 3072)), (1, 1, (64, 64))):
        result = EnlargeToCover(48, 64)(image=np.zeros((height, width, 3), np.uint8))["image"]
        assert result.shape[:2] == expected


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


def test_masks_are_drawn_from_a_folder_at_random(folder):
    masks = MaskFolder(folder / "masks", match="random", hole="black")
    torch.manual_seed(0)
    drawn = [bool(masks(40, 50)[0, 0]) for _ in range(40)]
    assert 8 < sum(drawn) < 32
    torch.manual_seed(0)
    assert [bool(masks(40, 50)[0, 0]) for _ in range(40)] == drawn


def test_mask_files_of_any_kind_are_divided_in_the_middle(tmp_path):
    values = np.array([[0, 127, 128, 255]], dtype=np.uint8)
    images = {
        "grey": Image.fromarray(values),
        "rgb": Image.fromarray(np.repeat(values[..., None], 3, 2)),
        "one_bit": Image.fromarray(values > 127),
        "sixteen": Image.fromarray(values.astype(np.uint16) * 257),
    }
    for name, image in images.items():
        image.save(tmp_path / f"{name}.png")
        assert read_mask(tmp_path / f"{name}.png").tolist() == [[0, 0, 1, 1]], name
        assert read_mask(tmp_path / f"{name}.png", "black").tolist() == [[1, 1, 0, 0]], name
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImageError, match=r"cannot read mask '.*broken.png'"):
        read_mask(tmp_path / "broken.png")


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
        (lambda f: MaskFolder(f / "masks", match="name"), ValueError, "match must be 'index' or 'random', got 'name'"),
        (lambda f: MaskFolder(f / "masks", hole="red"), ValueError, "hole must be 'white' or 'black', got 'red'"),
        (lambda f: InpaintingPairs(f / "pairs.json"), FileNotFoundError, "no list of pairs '.*pairs.json'"),
        (lambda f: InpaintingPhotographs("test"), ValueError, "must be 'train' or 'val', got 'test'"),
        (lambda f: InpaintingPhotographs("val", size=113), ValueError, "size 16 to 112, got .*size=113"),
    ],
)
def test_mistakes_are_named(folder, make, error, message):
    with pytest.raises(error, match=message):
        make(folder)
