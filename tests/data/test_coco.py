import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from albumentations import ColorJitter, Crop, HorizontalFlip, NoOp
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from coco_files import make_annotation, make_content, write

from gatedvision.data import CocoDetection, UnreadableImageError, collate_detections

pytest.importorskip("faster_coco_eval")


def test_sample(tmp_path):
    files = write(tmp_path, make_content())
    sample = CocoDetection(**files, with_masks=True)[0]
    pixels = np.asarray(Image.open(tmp_path / "images" / "a.png"))
    np.testing.assert_array_equal(sample["inputs"].permute(1, 2, 0).numpy(), pixels)
    target = sample["target"]
    # The crowd is no target, but evaluation knows it.
    assert [item.is_crowd for item in target["objects"]] == [False, False, True]
    assert target["boxes"].tolist() == [[2, 1, 8, 5], [10, 2, 18, 10]]
    assert target["labels"].tolist() == [0, 1] and target["image_id"] == 7
    expected = torch.zeros(2, 10, 20, dtype=torch.uint8)
    expected[0, 1:5, 2:8] = 1
    expected[1, 2:10, 10:18] = 1
    assert torch.equal(target["masks"], expected)


def test_images_without_objects_are_kept_or_left_out(tmp_path):
    content = make_content()
    content["annotations"] = content["annotations"][2:]  # a crowd alone is no target
    files = write(tmp_path, content)
    everything = CocoDetection(**files, with_masks=True)
    assert len(everything) == 3
    empty = everything[2]["target"]
    assert empty["boxes"].shape == (0, 4) and empty["labels"].shape == (0,) and empty["masks"].shape == (0, 8, 8)
    trained = CocoDetection(**files, keep_empty=False)
    assert [trained[index]["target"]["image_id"] for index in range(len(trained))] == [3]


def test_boxes_end_at_the_edges_of_the_image(tmp_path):
    content = make_content()
    content["annotations"] = [make_annotation(1, 7, 2, [-3, 4, 40, 20])]
    dataset = CocoDetection(**write(tmp_path, content))
    assert dataset[0]["target"]["boxes"].tolist() == [[0, 4, 20, 10]]
    # The evaluator compares with what the file says.
    assert dataset[0]["target"]["objects"][0].bbox == (-3, 4, 40, 20)


def test_boxes_and_masks_follow_the_image(tmp_path):
    files = write(tmp_path, make_content())
    plain = CocoDetection(**files, with_masks=True)[0]
    flipped = CocoDetection(**files, with_masks=True, transforms=[dict(type=HorizontalFlip, p=1.0)])[0]
    assert torch.equal(flipped["inputs"], plain["inputs"].flip(2)) and "objects" not in flipped["target"]
    assert torch.equal(flipped["target"]["masks"], plain["target"]["masks"].flip(2))
    torch.testing.assert_close(flipped["target"]["boxes"], torch.tensor([[12.0, 1, 18, 5], [2, 2, 10, 10]]))
    # The first object is cut off but for one column, the second stays.
    transforms = [Crop(x_min=7, y_min=0, x_max=20, y_max=9)]
    cut = CocoDetection(**files, with_masks=True, transforms=transforms)[0]["target"]
    torch.testing.assert_close(cut["boxes"], torch.tensor([[0.0, 1, 1, 5], [3, 2, 11, 9]]), atol=1e-4, rtol=0)
    gone = CocoDetection(**files, with_masks=True, transforms=[Crop(x_min=8, y_min=0, x_max=20, y_max=9)])[0]["target"]
    assert gone["labels"].tolist() == [1] and gone["labels"].dtype == torch.int64
    assert torch.equal(gone["masks"], plain["target"]["masks"][1:, :9, 8:])
    empty = CocoDetection(**files, with_masks=True, transforms=[Crop(x_min=0, y_min=0, x_max=1, y_max=5)])[0]["target"]
    assert empty["boxes"].shape == (0, 4) and empty["masks"].shape == (0, 5, 1)
    flip = [HorizontalFlip(p=1.0)]
    assert CocoDetection(**files, with_masks=True, transforms=flip)[2]["target"]["masks"].shape == (0, 8, 8)


def test_boxes_that_rounding_could_empty_are_no_targets(tmp_path):
    content = make_content()
    content["annotations"] = [make_annotation(1, 7, 2, [5, 4, 1e-7, 3]), make_annotation(2, 7, 9, [5, 4, 0.6, 3])]
    files = write(tmp_path, content)
    for transforms in ((), (NoOp(),)):
        target = CocoDetection(**files, with_masks=True, transforms=transforms)[0]["target"]
        assert target["labels"].tolist() == [1] and len(target["boxes"]) == len(target["masks"]) == 1


def test_random_choices_follow_torch(tmp_path):
    dataset = CocoDetection(**write(tmp_path, make_content()), transforms=[HorizontalFlip(p=0.5), ColorJitter(p=1.0)])
    draws = []
    for seed in (0, 0, 1, 2, 3, 4):
        torch.manual_seed(seed)
        draws.append(dataset[0]["inputs"])
    assert torch.equal(draws[0], draws[1])
    assert len({draw.numpy().tobytes() for draw in draws}) == 5


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16", "CMYK", "P"])
def test_every_kind_of_image_becomes_rgb(tmp_path, mode):
    files = write(tmp_path, make_content())
    suffix = "tif" if mode == "CMYK" else "png"
    pixels = np.full((10, 20), 30000, dtype=np.uint16)
    image = Image.fromarray(pixels) if mode == "I;16" else Image.new("RGB", (20, 10), (51, 51, 51)).convert(mode)
    image.save(tmp_path / "images" / "a.png", format="TIFF" if suffix == "tif" else "PNG")
    inputs = CocoDetection(**files, transforms=[NoOp()])[0]["inputs"]
    assert inputs.shape == (3, 10, 20) and inputs.dtype == torch.uint8
    assert (inputs.int() - (116 if mode == "I;16" else 51)).abs().max() <= 1


def test_an_image_of_one_pixel(tmp_path):
    content = make_content()
    content["images"] = [{"id": 7, "file_name": "a.png", "width": 1, "height": 1}]
    content["annotations"] = [make_annotation(1, 7, 2, [0, 0, 1, 1])]
    sample = CocoDetection(**write(tmp_path, content), with_masks=True, transforms=[HorizontalFlip(p=1.0)])[0]
    assert sample["inputs"].shape == (3, 1, 1)
    assert sample["target"]["boxes"].tolist() == [[0, 0, 1, 1]] and sample["target"]["masks"].tolist() == [[[1]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_that_of_the_annotations(tmp_path, orientation):
    stored = np.random.default_rng(0).integers(0, 256, (10, 20, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = make_content()
    content["images"], content["annotations"] = content["images"][:1], content["annotations"][:1]
    for width, height in ((20, 10), (10, 20)):
        content["images"][0].update(width=width, height=height)
        files = write(tmp_path, content)
        Image.fromarray(stored).save(tmp_path / "images" / "a.png", exif=exif)
        dataset = CocoDetection(**files)
        if (width, height) == (10, 20) and orientation < 5:
            with pytest.raises(ValueError, match=r"is of 20x10 pixels, image 7 of .* of 10x20"):
                dataset[0]
            continue
        pixels = dataset[0]["inputs"].permute(1, 2, 0).numpy()
        assert pixels.shape == (height, width, 3)
        # Annotated as stored, although a viewer would turn it.
        if orientation >= 5 and (width, height) == (20, 10):
            np.testing.assert_array_equal(pixels, stored)


def test_missing_and_broken_images_are_named(tmp_path):
    files = write(tmp_path, make_content())
    (tmp_path / "images" / "b.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImageError, match=r"cannot read image '.*b.png'.* \(image 3 of '.*instances.json'\)"):
        CocoDetection(**files)[1]
    (tmp_path / "images" / "b.png").unlink()
    message = r"names 1 images that '.*images' does not have, the first is image 3, 'b.png'; set GATEDVISION_DATA"
    with pytest.raises(FileNotFoundError, match=message):
        CocoDetection(**files)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "it has none"),
        ({"size": [5, 20], "counts": [0, 100]}, r"it is of \[5, 20\] pixels, the image of \[10, 20\]"),
        ({"size": [10, 20], "counts": [3, 4]}, "its runs cover 7 of 200 pixels"),
        ("mask", "expected polygons or a run-length encoding, got str"),
    ],
)
def test_bad_masks_are_named(tmp_path, segmentation, message):
    content = make_content()
    content["annotations"][0]["segmentation"] = segmentation
    files = write(tmp_path, content)
    with pytest.raises(ValueError, match=f"object in image 7 of '.*instances.json': {message}.*with_masks=False"):
        CocoDetection(**files, with_masks=True)[0]
    assert CocoDetection(**files)[0]["target"]["labels"].tolist() == [0, 1]


def test_batches_are_lists_and_datasets_travel_to_workers(tmp_path, monkeypatch):
    write(tmp_path, make_content())
    monkeypatch.setenv("GATEDVISION_DATA", str(tmp_path))
    dataset = CocoDetection("$GATEDVISION_DATA/instances.json", "$GATEDVISION_DATA/images")
    dataset = pickle.loads(pickle.dumps(dataset))
    batch = collate_detections([dataset[0], dataset[1]])
    assert [image.shape for image in batch["inputs"]] == [(3, 10, 20), (3, 16, 16)]
    assert [target["image_id"] for target in batch["targets"]] == [7, 3]
