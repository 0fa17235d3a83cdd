from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gatedvision.data import RandomLabelCrop, SegmentationFolder, UnreadableImageError, collate_label_maps

CLASSES = ("a", "b", "c")


def write(folder: Path, name: str, labels: np.ndarray, size: tuple[int, int] | None = None) -> None:
    """Write a pair of files; the image holds its rows and columns."""
    height, width = size or labels.shape
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows, columns, 0 * rows], axis=2).astype(np.uint8)
    for path, array in ((folder / "images" / f"{name}.png", pixels), (folder / "labels" / f"{name}.png", labels)):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)


def build(folder: Path, **options) -> SegmentationFolder:
    return SegmentationFolder(folder / "images", folder / "labels", **{"classes": CLASSES, **options})


def draw_labels(height: int = 6, width: int = 8, values=(0, 1, 2, 255)) -> np.ndarray:
    return np.random.default_rng(0).choice(np.array(values, dtype=np.uint8), (height, width))


def test_images_and_labels_of_one_name_belong_together(tmp_path):
    labels = draw_labels()
    for name in ("b/2", "b/10", "a/1"):
        write(tmp_path, name, labels)
    dataset = build(tmp_path)
    assert [dataset[index]["name"] for index in range(len(dataset))] == ["a/1", "b/10", "b/2"]
    sample = dataset[0]
    assert sample["inputs"].dtype == sample["labels"].dtype == torch.uint8
    assert torch.equal(sample["labels"], torch.from_numpy(labels))
    assert sample["inputs"].shape == (3, 6, 8) and sample["inputs"][1, 0].tolist() == list(range(8))
    assert dataset.metainfo == {"classes": list(CLASSES)}


def test_ids_in_files_become_classes(tmp_path):
    write(tmp_path, "x", np.array([[7, 0, 33, 8]], dtype=np.uint8))
    dataset = build(tmp_path, label_ids=(7, 8, 33), ignored_ids=(0,))
    assert dataset[0]["labels"].tolist() == [[0, 255, 2, 1]]


def test_suffixes_of_cityscapes(tmp_path):
    for folder, name in (("images", "c_leftImg8bit"), ("images", "c_other"), ("labels", "c_gtFine_labelIds")):
        (tmp_path / folder / "city").mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 1).save(tmp_path / folder / "city" / f"{name}.png")
    suffixes = {"image_suffix": "_leftImg8bit.png", "label_suffix": "_gtFine_labelIds.png"}
    [sample] = list(build(tmp_path, **suffixes))
    assert sample["name"] == "city/c" and sample["labels"].unique().tolist() == [1]


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16"])
def test_kinds_of_label_files(tmp_path, mode):
    write(tmp_path, "x", np.zeros((2, 2), dtype=np.uint8))
    values = np.array([[0, 1], [1, 0]], dtype=np.uint8)
    if mode == "1":
        image = Image.fromarray(values.astype(bool))
    elif mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16))
    else:
        image = Image.fromarray(values)
    if mode == "P":
        image.putpalette([200, 0, 0, 0, 0, 200])
        assert image.mode == "P"
    image.save(tmp_path / "labels" / "x.png")
    assert build(tmp_path)[0]["labels"].tolist() == values.tolist()


@pytest.mark.parametrize(
    ("value", "dtype", "options", "message"),
    [
        (
            3,
            np.uint8,
            {},
            r"label 3 at row 4, column 2 of '.*x\.png' is none of the classes 0\.\.2 nor ignored \(255\); 1",
        ),
        (
            0,
            np.uint8,
            {"label_ids": (1, 2, 5), "ignored_ids": ()},
            r"label 0 .* classes 1\.\.2, 5 nor ignored \(none\)",
        ),
        (70_000, np.int32, {}, "label 70000 at row 4"),
        (300, np.uint16, {}, "label 300 at row 4"),
    ],
)
def test_labels_out_of_range_are_named(tmp_path, value, dtype, options, message):
    labels = np.full((6, 8), 1)
    labels[4, 2] = value
    write(tmp_path, "x", np.ones((6, 8), dtype=np.uint8))
    suffix = ".tif" if dtype is np.int32 else ".png"
    Image.fromarray(labels.astype(dtype)).save(tmp_path / "labels" / f"x{suffix}")
    with pytest.raises(ValueError, match=message if suffix == ".png" else message.replace(r"\.png", r"\.tif")):
        build(tmp_path, label_suffix=suffix, **options)[0]


def test_sizes_that_differ_are_named(tmp_path):
    write(tmp_path, "x", draw_labels(), size=(8, 6))
    with pytest.raises(ValueError, match=r"image '.*x\.png' is of 6x8 pixels, its labels '.*x\.png' of 8x6$"):
        build(tmp_path)[0]


def test_an_image_turned_by_its_exif_orientation_needs_turned_labels(tmp_path):
    labels = draw_labels()
    write(tmp_path, "x", labels)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees for display
    (tmp_path / "images" / "x.png").unlink()
    Image.new("RGB", (8, 6)).save(tmp_path / "images" / "x.jpg", exif=exif)
    with pytest.raises(
        ValueError, match="6x8 pixels, .* of 8x6; the image is turned by its EXIF orientation, the labels"
    ):
        build(tmp_path)[0]
    Image.fromarray(labels.T.copy()).save(tmp_path / "labels" / "x.png")
    assert build(tmp_path)[0]["inputs"].shape == (3, 8, 6)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "I;16"])
def test_images_of_other_kinds_become_rgb(tmp_path, mode):
    write(tmp_path, "x", draw_labels())
    (tmp_path / "images" / "x.png").unlink()
    if mode == "I;16":
        Image.fromarray(np.full((6, 8), 32896, dtype=np.uint16)).save(tmp_path / "images" / "x.png")
    else:
        Image.new(mode, (8, 6)).save(tmp_path / "images" / ("x.tif" if mode == "CMYK" else "x.png"))
    assert build(tmp_path)[0]["inputs"].shape == (3, 6, 8)


def test_images_of_one_pixel_can_be_trained_on(tmp_path):
    import albumentations as A

    write(tmp_path, "x", np.ones((1, 1), dtype=np.uint8))
    pad = A.PadIfNeeded(4, 4, position="top_left", fill=9, fill_mask=255)
    sample = build(tmp_path, transforms=[RandomLabelCrop(4, 4), pad])[0]
    assert sample["labels"].tolist()[0] == [1, 255, 255, 255]
    assert sample["inputs"][0].tolist()[0] == [0, 9, 9, 9]


def test_files_that_are_missing_or_broken_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no data folder '.*images'; set GATEDVISION_DATA"):
        build(tmp_path)
    write(tmp_path, "x", draw_labels())
    write(tmp_path, "y", draw_labels())
    (tmp_path / "labels" / "y.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images in '.*' have no labels, the first '.*labels/y\.png'"):
        build(tmp_path)
    with pytest.raises(FileNotFoundError, match="no image that ends in '_left.png'"):
        build(tmp_path, image_suffix="_left.png")
    (tmp_path / "labels" / "y.png").write_bytes(b"nothing")
    with pytest.raises(UnreadableImageError, match=r"cannot read labels '.*y\.png': "):
        build(tmp_path)[1]
    Image.new("RGB", (8, 6)).save(tmp_path / "labels" / "y.png")
    with pytest.raises(ValueError, match=r"labels '.*y\.png' are of mode RGB; a label map has one channel"):
        build(tmp_path)[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ("a",)}, "2 to 255 classes, got 1"),
        ({"label_ids": (0, 1)}, r"3 classes need as many different label_ids, got \(0, 1\)"),
        ({"label_ids": (0, 1, 1)}, "as many different label_ids"),
        ({"ignored_ids": (2,)}, r"labels \[2\] cannot be a class and ignored; set ignored_ids"),
        ({"label_ids": (0, 1, -1)}, "a label file cannot hold -1"),
    ],
)
def test_bad_options_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **options)


def test_batches_are_stacked_where_sizes_agree(tmp_path):
    write(tmp_path, "x", draw_labels())
    write(tmp_path, "y", draw_labels())
    dataset = build(tmp_path)
    batch = collate_label_maps([dataset[0], dataset[1]])
    assert batch["inputs"].shape == (2, 3, 6, 8) and batch["labels"].shape == (2, 6, 8)
    assert batch["names"] == ["x", "y"]
    write(tmp_path, "y", draw_labels(7, 8))
    batch = collate_label_maps([dataset[0], dataset[1]])
    assert [tuple(labels.shape) for labels in batch["labels"]] == [(6, 8), (7, 8)]
    assert [tuple(inputs.shape) for inputs in batch["inputs"]] == [(3, 6, 8), (3, 7, 8)]
