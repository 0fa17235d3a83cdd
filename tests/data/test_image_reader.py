from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gatedvision.data import UnreadableImageError, read_image


def saved(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


def test_grey_becomes_three_equal_channels(tmp_path):
    image = read_image(saved(Image.new("L", (3, 2), 77), tmp_path / "grey.png"))
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (3, 2), (77, 77, 77))


@pytest.mark.parametrize(("mode", "transparent"), [("RGBA", (10, 20, 30, 0)), ("LA", (10, 0))])
def test_transparency_lies_over_white(tmp_path, mode, transparent):
    image = Image.new(mode, (2, 1), transparent)
    opaque = tuple(transparent[:-1]) + (255,)
    image.putpixel((1, 0), opaque)
    read = read_image(saved(image, tmp_path / "alpha.png"))
    assert read.getpixel((0, 0)) == (255, 255, 255)
    assert read.getpixel((1, 0)) == ((10, 20, 30) if mode == "RGBA" else (10, 10, 10))


def test_palette_with_a_transparent_entry(tmp_path):
    image = Image.new("P", (2, 1), 0)
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putpixel((1, 0), 1)
    read = read_image(saved(image, tmp_path / "palette.png", transparency=0))
    assert [read.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (0, 0, 200)]


def test_cmyk(tmp_path):
    read = read_image(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "cmyk.jpg", quality=100))
    red, green, blue = np.asarray(read)[4, 4]
    assert red > 250 and green < 5 and blue < 5


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    levels = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    for name in ("deep.png", "deep.tif"):
        read = np.asarray(read_image(saved(Image.fromarray(levels), tmp_path / name)))
        assert read[0, :, 0].tolist() == [0, 1, 128, 255], name


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (4, 2), "black")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees for display
    assert read_image(saved(image, tmp_path / "turned.jpg", exif=exif)).size == (2, 4)


def test_float_pixels_are_refused(tmp_path):
    path = saved(Image.new("F", (2, 2), 0.5), tmp_path / "float.tif")
    with pytest.raises(UnreadableImageError, match="floating-point pixels"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"no image at all", None])
def test_unreadable_files_are_named_in_one_line(tmp_path, content):
    path = tmp_path / "broken.jpg"
    if content is None:
        Image.effect_noise((64, 64), 50).save(path)
        content = path.read_bytes()[:600]
    path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=f"cannot read image '{path}': .+") as error:
        read_image(path)
    assert "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(UnreadableImageError, match="gone.png': .*No such file"):
        read_image(tmp_path / "gone.png")
