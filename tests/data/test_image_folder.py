import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from PIL import Image
from timm.data import create_transform
from torch.utils.data import DataLoader

from gatedvision.data import ImageFolder, UnreadableImageError, collate_samples

WNIDS = ["n01440764", "n02102040", "n03888257"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes, two training images and one validation image each; the grey level tells class and number."""
    for split, count in (("train", 2), ("val", 1)):
        for label, wnid in enumerate(WNIDS):
            folder = tmp_path / "images" / split / wnid
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (12, 10), (40 * label + number,) * 3).save(folder / f"{number}.png")
    return tmp_path / "images"


def grey(sample) -> int:
    return sample["inputs"].getpixel((0, 0))[0]


def corrupt(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:40])
    return path


def test_classes_are_the_sorted_folders_and_samples_stay_in_order(root):
    dataset = ImageFolder(root, "train")
    assert dataset.classes == WNIDS
    assert dataset.metainfo == {"classes": WNIDS}
    assert [(grey(s), s["label"]) for s in dataset] == [(0, 0), (1, 0), (40, 1), (41, 1), (80, 2), (81, 2)]


def test_a_class_without_validation_images_does_not_shift_the_others(root):
    shutil.rmtree(root / "val" / WNIDS[0])
    assert [sample["label"] for sample in ImageFolder(root, "val")] == [1, 2]
    assert [sample["label"] for sample in ImageFolder(root, "val", class_split="val")] == [0, 1]


def test_nested_folders_and_suffixes_of_any_case_count_but_other_files_do_not(root):
    folder = root / "train" / WNIDS[0]
    (folder / "nested").mkdir()
    (folder / "0.png").rename(folder / "nested" / "0.PNG")
    (folder / "notes.txt").write_text("no image")
    (root / "train" / ".cache").mkdir()
    assert len(ImageFolder(root, "train")) == 6


def test_a_transform_given_as_config_is_built(root):
    config = ConfigDict(type=create_transform, input_size=8, is_training=False, crop_pct=1.0)
    sample = ImageFolder(root, "val", transform=config)[0]
    assert sample["inputs"].shape == (3, 8, 8)
    assert sample["inputs"].dtype == torch.float32


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_through_a_loader(root, workers):
    dataset = ImageFolder(root, "train", transform=create_transform(8), cache=True)
    batches = list(DataLoader(dataset, batch_size=4, num_workers=workers, collate_fn=collate_samples))
    assert [batch["inputs"].shape[0] for batch in batches] == [4, 2]
    assert torch.cat([batch["labels"] for batch in batches]).tolist() == [0, 0, 1, 1, 2, 2]


def test_cached_pixels_are_the_decoded_ones_and_survive_the_file(root):
    plain, cached = ImageFolder(root, "train"), ImageFolder(root, "train", cache=True)
    expected = [np.asarray(sample["inputs"]) for sample in plain]
    shutil.rmtree(root)
    assert all(np.array_equal(np.asarray(s["inputs"]), e) for s, e in zip(cached, expected, strict=True))


def test_root_expands_the_environment(root, monkeypatch):
    monkeypatch.setenv("GATEDVISION_DATA", str(root.parent))
    assert len(ImageFolder("$GATEDVISION_DATA/images", "train")) == 6
    monkeypatch.delenv("GATEDVISION_DATA")
    monkeypatch.chdir(root.parent)
    (root.parent / "data").mkdir()
    root.rename(root.parent / "data" / "images")
    assert len(ImageFolder("$GATEDVISION_DATA/images", "train")) == 6


def test_missing_root_says_how_to_name_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no data folder '.*nowhere'; set GATEDVISION_DATA, or root"):
        ImageFolder(tmp_path / "nowhere", "train")


def test_missing_split_names_what_is_there(root):
    with pytest.raises(FileNotFoundError, match=r"no split 'test' in .*it has \['train', 'val'\].*set split"):
        ImageFolder(root, "test")
    shutil.rmtree(root / "train")
    with pytest.raises(FileNotFoundError, match="set class_split"):
        ImageFolder(root, "val")
    assert len(ImageFolder(root, "val", class_split="val")) == 3


def test_one_folder_without_splits_says_how_to_divide_it(root):
    with pytest.raises(
        FileNotFoundError, match=r"class folders but no split 'train': move .*/train/train'.*/train/val'"
    ):
        ImageFolder(root / "train", "train")


def test_no_class_folders(root):
    shutil.rmtree(root / "train")
    (root / "train").mkdir()
    with pytest.raises(ValueError, match="has no class folders; expected"):
        ImageFolder(root, "train")


def test_empty_class_is_named(root):
    for path in (root / "train" / WNIDS[1]).iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=f"{WNIDS[1]}' has no image; add some or remove it"):
        ImageFolder(root, "train")


def test_class_unknown_in_training_is_named(root):
    (root / "val" / WNIDS[2]).rename(root / "val" / "n99999999")
    with pytest.raises(ValueError, match="class 'n99999999' in .*val' is not one of the 3 training classes"):
        ImageFolder(root, "val")


def test_bad_on_error(root):
    with pytest.raises(ValueError, match="on_error must be 'raise' or 'skip', got 'ignore'"):
        ImageFolder(root, "train", on_error="ignore")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("cache", [False, True])
def test_corrupt_image_is_fatal_by_default(root, cache):
    path = corrupt(root / "train" / WNIDS[1] / "0.png")
    with pytest.raises(UnreadableImageError, match=f"cannot read image '{path}'"):
        ImageFolder(root, "train", cache=cache)[2]


@pytest.mark.parametrize("cache", [False, True])
def test_corrupt_image_is_skipped_named_and_counted(root, cache):
    first, second = corrupt(root / "train" / WNIDS[1] / "1.png"), corrupt(root / "train" / WNIDS[2] / "0.png")
    dataset = ImageFolder(root, "train", on_error="skip", cache=cache)
    for _ in range(2):  # the replacement is the next readable image, the same every time
        assert [(grey(s), s["label"]) for s in dataset] == [(0, 0), (1, 0), (40, 1), (81, 2), (81, 2), (81, 2)]
    assert dataset.unreadable == [first, second]


def test_corrupt_last_image_is_replaced_by_the_first(root):
    corrupt(root / "val" / WNIDS[2] / "0.png")
    dataset = ImageFolder(root, "val", on_error="skip")
    assert (grey(dataset[2]), dataset[2]["label"]) == (0, 0)


def test_skipped_images_are_reported_once_with_their_number(root, monkeypatch):
    reports = []
    monkeypatch.setattr("gatedvision.data.image_folder.print_log", lambda message, *_: reports.append(message))
    path = corrupt(root / "val" / WNIDS[0] / "0.png")
    dataset = ImageFolder(root, "val", on_error="skip")
    assert [dataset[0]["label"], dataset[0]["label"]] == [1, 1]
    assert len(reports) == 1
    assert str(path) in reports[0] and "(skipped; 1 so far)" in reports[0]


def test_an_index_outside_is_an_error(root):
    dataset = ImageFolder(root, "val", on_error="skip")
    for index in (-1, 3):
        with pytest.raises(IndexError, match=f"image {index} of 3"):
            dataset[index]


def test_what_a_worker_skips_is_known_in_the_main_process(root):
    path = corrupt(root / "train" / WNIDS[0] / "1.png")
    dataset = ImageFolder(root, "train", transform=create_transform(8), on_error="skip")
    assert len(list(DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=collate_samples))) == 3
    assert dataset.unreadable == [path]


def test_nothing_readable_is_an_error(root):
    for path in (root / "val").rglob("*.png"):
        corrupt(path)
    with pytest.raises(UnreadableImageError, match="none of the 3 images under .* can be read"):
        ImageFolder(root, "val", on_error="skip")[1]
