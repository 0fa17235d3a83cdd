import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

TOOL = Path(__file__).parents[2] / "tools" / "inpaint.py"
HOLE = np.zeros((45, 60), dtype=np.uint8)
HOLE[10:30, 20:40] = 255


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "generator.pth"
    torch.save(timm.create_model("deepfillv2", dim=8).state_dict(), path)
    return path


@pytest.fixture
def inpaint(monkeypatch, capfd, tmp_path, weights) -> Callable[..., tuple[int, str, str]]:
    """Run the script in this process among the files of the test; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(HOLE).save("mask.png")

    def run(*arguments: object, checkpoint: bool = True) -> tuple[int, str, str]:
        loaded = ["--checkpoint", str(weights), "--model-options", "dim=8"] if checkpoint else []
        monkeypatch.setattr(sys, "argv", ["tools/inpaint.py", *map(str, arguments), *loaded])
        monkeypatch.setattr(sys, "path", sys.path[:])
        capfd.readouterr()
        code = 0
        try:
            runpy.run_path(str(TOOL), run_name="__main__")
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else 0
        output = capfd.readouterr()
        return code, output.out, output.err

    return run


def photo(*channels: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(2).integers(0, 256, (*HOLE.shape, *channels), dtype=np.uint8))


def test_known_pixels_come_back(inpaint):
    photo(3).save("photo.png")
    code, output, errors = inpaint("photo.png", "mask.png", "-o", "new/out.png")
    assert code == 0 and output == "'new/out.png': 400 pixels (14.8%) filled in 1 window\n", errors
    with Image.open("new/out.png") as result:
        changed = (np.asarray(result) != np.asarray(photo(3))).any(axis=2)
        assert result.mode == "RGB" and not changed[HOLE == 0].any() and changed[HOLE > 0].mean() > 0.9
    # The same through the other ways to say it.
    Image.fromarray(~HOLE).save("inverted.png")
    rgba = np.dstack([np.asarray(photo(3)), ~HOLE])
    Image.fromarray(rgba).save("rgba.png")
    small = HOLE.copy()
    small[10], small[29], small[:, 20], small[:, 39] = 0, 0, 0, 0
    Image.fromarray(small // 2).save("small.png")
    for out, *arguments in (("a.png", "photo.png", "inverted.png", "--invert"), ("b.png", "rgba.png")):
        assert inpaint(*arguments, "-o", out)[0] == 0
        with Image.open(out) as result, Image.open("new/out.png") as expected:
            assert np.array_equal(np.asarray(result)[..., :3], np.asarray(expected)), out
    # Above 100 are the same pixels but for the corners, which the disc leaves out.
    code, output, _ = inpaint(
        "photo.png", "small.png", "-o", "c.png", "--threshold", 100, "--dilate", 1, "--amp", "bf16"
    )
    assert code == 0 and "396 pixels" in output


def test_a_turned_photo(inpaint):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(3).save("photo.png", exif=exif)
    code, _, errors = inpaint("photo.png", "mask.png", "-o", "out.png")
    assert code == 2 and "'mask.png' lies on its side: the image is shown turned" in errors
    Image.fromarray(np.rot90(HOLE, -1)).save("mask.png")
    assert inpaint("photo.png", "mask.png", "-o", "out.jpg")[0] == 0
    with Image.open("out.jpg") as result:
        assert result.size == (45, 60) and result.getexif().get(0x0112, 1) == 1


def test_notes(inpaint):
    photo(3).save("photo.png")
    _, output, _ = inpaint("photo.png", "mask.png", "-o", "out.jpg")
    assert output.rstrip().endswith("known pixels are recompressed, JPEG being lossy")
    Image.fromarray(HOLE * 0).save("mask.png")
    code, output, _ = inpaint("photo.png", "mask.png", "-o", "out.png")
    assert code == 0 and output == "'out.png': the mask is empty, the image is unchanged\n"
    with Image.open("out.png") as result:
        assert np.array_equal(np.asarray(result), np.asarray(photo(3)))
    Image.fromarray(HOLE).save("mask.png")
    frames = [photo(3).quantize(4), photo().quantize(4)]
    frames[0].save("photo.gif", save_all=True, append_images=frames[1:])
    assert "of 2 images in the file this is the first" in inpaint("photo.gif", "mask.png", "-o", "gif.png")[1]


def test_a_bad_file_of_a_folder_is_named_and_the_others_go_on(inpaint):
    for folder in ("photos", "masks"):
        Path(folder).mkdir()
    photo(3).save("photos/a.jpg")
    photo().save("photos/b.png")
    Path("photos/c.png").write_text("junk")
    photo().save("photos/d.png")
    photo().save("photos/e.png")
    for name in ("a.png", "b_mask.png", "c.png"):
        Image.fromarray(HOLE).save(f"masks/{name}")
    Image.fromarray(HOLE[:-1]).save("masks/e.png")
    code, output, errors = inpaint("photos", "masks", "-o", "out")
    assert code == 2 and sorted(path.name for path in Path("out").iterdir()) == ["a.png", "b.png"]
    assert "2 of 5 images are in 'out'" in output
    failures = errors.splitlines()
    assert [line.split(":")[1] for line in failures[:3]] == [" 'photos/c.png'", " 'photos/d.png'", " 'photos/e.png'"]
    assert "there is no mask called 'd' or 'd_mask' in 'masks'" in failures[1]
    assert failures[3:] == ["error: 3 of 5 images failed, named above"]
    code, output, errors = inpaint("photos/[ab].*", "masks/*.png", "-o", "out", "--overwrite")
    assert code == 0 and errors == "" and "2 of 2 images" in output


def test_mistakes_are_one_line(inpaint):
    photo(3).save("photo.png")
    photo(3).save("taken.png")
    photo(3).convert("CMYK").save("cmyk.jpg")
    Image.fromarray(HOLE | 255).save("full.png")
    Image.fromarray(HOLE[1:]).save("low.png")
    for message, *arguments in (
        ("'taken.png' exists; pass --overwrite", "photo.png", "mask.png", "-o", "taken.png"),
        ("no image at 'gone.png'", "gone.png", "mask.png", "-o", "out.png"),
        ("no mask at 'gone.png'", "photo.png", "gone.png", "-o", "out.png"),
        ("no transparency that could be the hole; give a mask", "photo.png", "-o", "out.png"),
        ("the mask is 60 pixels wide and 44 high, the image 60 pixels", "photo.png", "low.png", "-o", "out.png"),
        ("covers the whole image", "photo.png", "full.png", "-o", "out.png"),
        ("PNG does not hold images of mode CMYK", "cmyk.jpg", "mask.png", "-o", "out.png"),
        ("cannot write 'out.gif': name it .png", "photo.png", "mask.png", "-o", "out.gif"),
        ("--threshold must be from 0 to below 255", "photo.png", "mask.png", "-o", "out.png", "--threshold", 255),
        ("cannot use --device toaster", "photo.png", "mask.png", "-o", "out.png", "--device", "toaster"),
        ("max_size must be at least 64 pixels", "photo.png", "mask.png", "-o", "out.png", "--max-size", 8),
    ):
        code, output, errors = inpaint(*arguments)
        assert (code, output) == (2, "") and errors.startswith("error: ") and errors.count("\n") == 1, errors
        assert message in errors
        assert not Path("out.png").exists()
    with Image.open("taken.png") as kept:
        assert np.array_equal(np.asarray(kept), np.asarray(photo(3)))


def test_without_weights_it_says_how_to_get_some(inpaint):
    photo(3).save("photo.png")
    code, _, errors = inpaint("photo.png", "mask.png", "-o", "out.png", checkpoint=False)
    assert code == 2 and errors.count("\n") == 1
    for text in ("CC BY-NC 4.0", "tools/convert_checkpoint.py", "tools/train.py configs/inpainting/", "--checkpoint"):
        assert text in errors
