from pathlib import Path

import numpy as np
import pytest
import torch
from albumentations import HorizontalFlip
from PIL import Image

from gatedvision.data import MedicalImageFolder, RandomPatch, UnreadableImageError
from gatedvision.data.medical_images import read_intensities

CLASSES = ("background", "nucleus")


def write(folder: Path, name: str, image: Image.Image, labels: np.ndarray | None = None) -> None:
    for part in ("images", "labels"):
        (folder / part).mkdir(exist_ok=True)
    image.save(folder / "images" / name)
    labels = np.eye(image.height, image.width, dtype=np.uint8) if labels is None else labels
    Image.fromarray(labels).save(folder / "labels" / f"{Path(name).stem}.png")


def open_folder(folder: Path, **options) -> MedicalImageFolder:
    return MedicalImageFolder(folder / "images", folder / "labels", CLASSES, **options)


def grey(dtype=np.uint16, high: int = 900) -> np.ndarray:
    return np.random.default_rng(0).integers(100, high, (30, 40)).astype(dtype)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("a.png", np.uint16), ("a.tif", np.uint16), ("a.tiff", np.float32), ("a.tif", np.int32), ("a.png", np.uint8)],
)
def test_grey_files_keep_their_precision(tmp_path, name, dtype):
    pixels = grey(dtype, 250 if dtype == np.uint8 else 900)
    write(tmp_path, name, Image.fromarray(pixels))
    values = read_intensities(tmp_path / "images" / name)
    assert values.dtype == np.float32 and values.shape == (30, 40, 1)
    np.testing.assert_array_equal(values[..., 0], pixels)
    sample = open_folder(tmp_path, intensity={"mode": "min_max"})[0]
    assert sample["inputs"].shape == (3, 30, 40) and sample["inputs"].dtype == torch.float32
    # All of the 150 or 800 levels are still there.
    assert len(sample["inputs"][0].unique()) == len(np.unique(pixels))
    assert (sample["inputs"].min(), sample["inputs"].max()) == (0, 1) and sample["name"] == "a"
    assert torch.equal(sample["labels"], torch.eye(30, 40, dtype=torch.uint8))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA", "1"])
def test_other_files_are_colours(tmp_path, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    write(tmp_path, "a.png", Image.fromarray(pixels).convert(mode))
    values = read_intensities(tmp_path / "images" / "a.png")
    assert values.shape == (30, 40, 1 if mode == "1" else 3)
    for channels in (1, 3):
        sample = open_folder(tmp_path, channels=channels, intensity={"mode": "min_max"})[0]
        assert sample["inputs"].shape == (channels, 30, 40)
    if mode == "RGB":
        expected = (values @ np.array([0.299, 0.587, 0.114], dtype=np.float32) - values.min()) / np.ptp(values)
        inputs = open_folder(tmp_path, channels=1, intensity={"mode": "min_max"})[0]["inputs"]
        np.testing.assert_allclose(inputs[0], expected, atol=1e-5)


def test_transforms_and_then_a_patch(tmp_path):
    write(tmp_path, "a.tif", Image.fromarray(grey()))
    options = {"intensity": {"mode": "none"}, "channels": 1}
    whole = open_folder(tmp_path, **options)[0]
    patch = dict(type=RandomPatch, size=(8, 8), foreground=1.0)
    sample = open_folder(tmp_path, **options, transforms=[dict(type=HorizontalFlip, p=1.0)], patch=patch)[0]
    assert sample["inputs"].shape == (1, 8, 8) and sample["labels"].any()
    mirrored = whole["inputs"][0].flip(1).unfold(0, 8, 1).unfold(1, 8, 1)
    assert (mirrored == sample["inputs"][0]).all(-1).all(-1).any()


def test_bad_files_are_named(tmp_path):
    write(tmp_path, "a.tif", Image.fromarray(grey()))
    image = tmp_path / "images" / "a.tif"
    with pytest.raises(ValueError, match=r"channels must be 1 or 3, got 2"):
        open_folder(tmp_path, channels=2)
    Image.fromarray(grey()).save(image, save_all=True, append_images=[Image.fromarray(grey())])
    with pytest.raises(
        UnreadableImageError, match=r"cannot read image '.*a.tif': it holds 2 images; store a stack as a"
    ):
        open_folder(tmp_path)[0]
    Image.fromarray(np.full((30, 40), np.nan, dtype=np.float32)).save(image)
    with pytest.raises(ValueError, match=r"image '.*a.tif': 1200 of 1200 values are infinite or NaN"):
        open_folder(tmp_path)[0]
    image.write_bytes(b"II*\0junk")
    with pytest.raises(UnreadableImageError, match="cannot read image '.*a.tif'"):
        open_folder(tmp_path)[0]
    Image.fromarray(grey()[:-1]).save(image)
    with pytest.raises(ValueError, match="image '.*a.tif' is of 40x29 pixels, its labels '.*a.png' of 40x30"):
        open_folder(tmp_path)[0]
    write(tmp_path, "a.tif", Image.fromarray(grey()), np.full((30, 40), 255, dtype=np.uint8))
    with pytest.raises(
        ValueError, match=r"label 255 at row 0, column 0 of '.*a.png' is none of the classes 0\.\.1 nor"
    ):
        open_folder(tmp_path, ignored_ids=())[0]
    assert open_folder(tmp_path, label_ids=(0, 255), ignored_ids=())[0]["labels"].unique().tolist() == [1]
