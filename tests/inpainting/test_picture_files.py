import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from gatedvision.data import UnreadableImageError
from gatedvision.inpainting.picture_files import natural_suffix, read_mask, read_picture, write_picture
from gatedvision.inpainting.pixels import Pixels

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(*channels: int, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (6, 5, *channels), dtype=dtype, endpoint=True)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "CMYK", "I;16"])
def test_modes_survive_a_round_trip(tmp_path, mode, suffix):
    source, copy = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    picture = Image.fromarray(noise(3)).convert(mode) if mode != "I;16" else Image.fromarray(noise(dtype="uint16"))
    if (mode, suffix) == ("CMYK", ".png"):
        with pytest.raises(ValueError, match=r"PNG does not hold images of mode CMYK, TIFF or JPEG does"):
            write_picture(read_picture_of(picture, tmp_path / "a.tif"), copy)
        assert not copy.exists()
        return
    picture.save(source, icc_profile=PROFILE, dpi=(300, 300))
    assert write_picture(read_picture(source), copy) == []
    with Image.open(copy) as result:
        assert result.mode == mode and np.array_equal(np.asarray(result), np.asarray(picture))
        assert result.info["icc_profile"] == PROFILE and result.info["dpi"][0] == pytest.approx(300, abs=0.1)
    assert [path.name for path in tmp_path.iterdir() if "unfinished" in path.name] == []


def read_picture_of(picture: Image.Image, path):
    picture.save(path)
    return read_picture(path)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colour_of_16_bits_stays(tmp_path, suffix, channels):
    if (suffix, channels) == (".ppm", 4):
        suffix = ".png"
    source, values = tmp_path / f"a{suffix}", noise(channels, dtype="uint16")
    order = [2, 1, 0, 3][:channels]
    cv2.imwrite(str(source), values[..., order])
    picture = read_picture(source)
    assert picture.pixels.values.dtype == np.uint16 and np.array_equal(picture.pixels.values, values)
    picture.info["icc_profile"] = PROFILE
    for name in ("b.png", "b.tif"):
        missing = write_picture(picture, tmp_path / name)
        assert np.array_equal(cv2.imread(str(tmp_path / name), cv2.IMREAD_UNCHANGED)[..., order], values)
        assert missing == ([] if name == "b.png" else [missing[0]])
    assert "colour profile is left out" in missing[0]
    again = read_picture(tmp_path / "b.png")
    assert again.info["icc_profile"] == PROFILE and np.array_equal(again.pixels.values, values)
    with pytest.raises(ValueError, match="BMP does not hold images of mode RGBA?;16, PNG or TIFF does"):
        write_picture(picture, tmp_path / "b.bmp")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "maker"
    for name, values in (("a.png", noise(3)), ("b.png", noise(3, dtype="uint16"))):
        path = tmp_path / name
        if values.dtype == np.uint16:
            # Pillow cannot write it: put its EXIF chunk into OpenCV's file.
            Image.new("L", (1, 1)).save(path, exif=exif)
            chunk = path.read_bytes()[33:]
            chunk = chunk[: int.from_bytes(chunk[:4], "big") + 12]
            assert chunk[4:8] == b"eXIf"
            data = cv2.imencode(".png", values[..., ::-1])[1].tobytes()
            path.write_bytes(data[:33] + chunk + data[33:])
        else:
            Image.fromarray(values).save(path, exif=exif)
        picture = read_picture(path)
        turns = {2: 0, 3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}
        expected = np.rot90(values, turns.get(orientation, 0))
        expected = expected[:, ::-1] if orientation in (2, 4, 5, 7) else expected
        assert np.array_equal(picture.pixels.values, expected), name
        assert picture.turned == (orientation > 4)
    assert read_mask(tmp_path / "a.png").size == ((6, 5) if orientation > 4 else (5, 6))
    write_picture(read_picture(tmp_path / "a.png"), tmp_path / "c.jpg")
    with Image.open(tmp_path / "c.jpg") as image:
        assert image.getexif().get(0x0112, 1) == 1 and image.getexif()[0x010F] == "maker"


def test_palettes_and_animations(tmp_path):
    frames = [Image.fromarray(noise(3)).quantize(8), Image.new("P", (5, 6))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    picture = read_picture(tmp_path / "a.gif")
    assert picture.frames == 2 and picture.pixels.mode in ("RGB", "RGBA")
    with Image.open(tmp_path / "a.gif") as image:
        assert np.array_equal(picture.pixels.values[..., :3], np.asarray(image.convert("RGB")))


def test_lossy_and_lossless_formats(tmp_path):
    picture = read_picture_of(Image.fromarray(noise(3)), tmp_path / "a.png")
    assert write_picture(picture, tmp_path / "new" / "b.jpg") == ["known pixels are recompressed, JPEG being lossy"]
    for suffix in (".webp", ".bmp", ".TIFF"):
        assert write_picture(picture, tmp_path / f"b{suffix}") == []
        assert np.array_equal(read_picture(tmp_path / f"b{suffix}").pixels.values, picture.pixels.values)
    transparent = noise(4)
    transparent[:3, :, 3] = 0
    picture = read_picture_of(Image.fromarray(transparent), tmp_path / "a.png")
    write_picture(picture, tmp_path / "c.webp")
    # Colours under full transparency, too.
    assert np.array_equal(read_picture(tmp_path / "c.webp").pixels.values, transparent)
    with pytest.raises(ValueError, match=r"JPEG does not hold images of mode RGBA, PNG or TIFF or WEBP does"):
        write_picture(picture, tmp_path / "c.jpg")
    with pytest.raises(ValueError, match=r"cannot write '.*c.gif': name it .png, .tif"):
        write_picture(picture, tmp_path / "c.gif")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.webp"
    path.write_bytes(b"old")
    too_wide = Pixels(np.zeros((1, 20000, 3), dtype=np.uint8))
    picture = read_picture_of(Image.fromarray(noise(3)), tmp_path / "a.png")
    picture.pixels = too_wide
    with pytest.raises((ValueError, OSError)):
        write_picture(picture, path)
    assert path.read_bytes() == b"old" and sorted(found.name for found in tmp_path.iterdir()) == ["a.png", "a.webp"]


def test_suffixes(tmp_path):
    Image.new("CMYK", (4, 4)).save(tmp_path / "a.jpg")
    Image.new("RGB", (4, 4)).save(tmp_path / "b.jpg")
    (tmp_path / "c.jpg").write_text("junk")
    suffixes = [natural_suffix(tmp_path / name) for name in ("a.jpg", "b.jpg", "c.jpg", "d.TIF", "e.png")]
    assert suffixes == [".tif", ".png", ".png", ".TIF", ".png"]


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "junk.png").write_text("junk")
    Image.new("F", (2, 2), 0.5).save(tmp_path / "float.tif")
    for name, message in (("junk.png", "cannot identify"), ("gone.png", "No such file"), ("float.tif", "mode F")):
        with pytest.raises(UnreadableImageError, match=f"cannot read image '{tmp_path / name}': .*{message}"):
            read_picture(tmp_path / name)
    with pytest.raises(UnreadableImageError, match="cannot read mask '.*junk.png'"):
        read_mask(tmp_path / "junk.png")


def test_photos_larger_than_pillow_trusts(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.new("L", (9, 9)).save(tmp_path / "large.png")
    assert read_picture(tmp_path / "large.png").pixels.size == (9, 9)
    assert Image.MAX_IMAGE_PIXELS == 10
