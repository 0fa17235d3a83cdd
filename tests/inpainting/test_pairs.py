from pathlib import Path

import pytest
from PIL import Image

from gatedvision.inpainting.pairs import find_pairs


@pytest.fixture
def files(tmp_path) -> Path:
    for name in ("photos/a.jpg", "photos/b.png", "photos/c.tif", "masks/a.png", "masks/b_mask.png", "one.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path


def names(files: Path, image: str, mask: str | None, out: str, overwrite: bool = False) -> list[tuple]:
    pairs, _ = find_pairs(f"{files}/{image}", mask and f"{files}/{mask}", f"{files}/{out}", overwrite)
    return [tuple(path and str(path.relative_to(files)) for path in pair) for pair in pairs]


def test_one_image(files):
    assert names(files, "photos/a.jpg", "one.png", "new/result.png") == [("photos/a.jpg", "one.png", "new/result.png")]
    assert names(files, "photos/a.jpg", None, "new/") == [("photos/a.jpg", None, "new/a.png")]
    assert names(files, "photos/b.png", "masks", "masks") == [("photos/b.png", "masks/b_mask.png", "masks/b.png")]


def test_folders_are_matched_by_name(files):
    expected = [
        ("photos/a.jpg", "masks/a.png", "out/a.png"),
        ("photos/b.png", "masks/b_mask.png", "out/b.png"),
        # There is none; said when its turn comes.
        ("photos/c.tif", "masks/c", "out/c.tif"),
    ]
    assert names(files, "photos", "masks", "out") == expected
    assert names(files, "photos/[ab].*", "masks/*.png", "out") == expected[:2]
    assert [pair[1] for pair in names(files, "photos", "one.png", "out")] == ["one.png"] * 3
    assert [pair[1] for pair in names(files, "photos", None, "out")] == [None] * 3


def test_results_that_exist_are_refused(files):
    with pytest.raises(FileExistsError, match=r"photos/b.png' exists \(and 1 more\); pass --overwrite"):
        names(files, "photos", None, "photos")
    assert len(names(files, "photos", None, "photos", overwrite=True)) == 3


def test_mistakes(files):
    for image, mask, message in (
        ("gone.png", None, "no image at '.*gone.png'"),
        ("*.gif", None, "no image at '.*gif'"),
        ("one.png", "gone.png", "no mask at '.*gone.png'"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            names(files, image, mask, "out.png")
    (files / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no image in folder"):
        names(files, "empty", None, "out")
    with pytest.raises(ValueError, match="cannot write '.*result': name it .png"):
        names(files, "one.png", None, "result")
    Image.new("RGB", (4, 4)).save(files / "photos" / "a.png")
    with pytest.raises(ValueError, match="a.jpg' and '.*a.png' would both be written to '.*out/a.png'; rename one"):
        names(files, "photos", None, "out")
