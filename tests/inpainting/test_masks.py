import numpy as np
import pytest
import torch
from PIL import Image

from gatedvision.inpainting import Options
from gatedvision.inpainting.masks import read_holes, transparent_hole
from gatedvision.inpainting.pixels import Pixels


def hole(mask, **options) -> list:
    [found] = read_holes(mask, 1, Options(**options))
    return found.astype(int).tolist()


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0, 1, 1], "bool"),
        ([127, 128, 255], "uint8"),
        ([0, 1, 1], "uint8"),
        ([0, 1, 1], "int64"),
        ([127, 128, 255], "int32"),
        ([32767, 32768, 65535], "uint16"),
        ([128, 40000, 40000], "uint16"),
        ([0.5, 0.51, 1.0], "float32"),
        ([0.5, 0.51, 1.0], "float16"),
    ],
)
def test_the_threshold_of_each_kind_of_values(values, dtype):
    mask = np.array([values], dtype=dtype)
    assert hole(mask) == hole(mask[..., None]) == [[0, 1, 1]]
    assert hole(mask, invert=True) == [[1, 0, 0]]
    if dtype != "uint16":
        assert hole(torch.from_numpy(mask)) == hole(torch.from_numpy(mask)[None, None]) == [[0, 1, 1]]


def test_another_threshold():
    for level in range(255):
        assert hole(np.array([[level, level + 1]], dtype=np.uint8), threshold=level / 255)[0][0] == 0
    assert hole(np.array([[100, 101]], dtype=np.uint8), threshold=100 / 255) == [[0, 1]]


def test_pictures_and_colours():
    mask = np.array([[0, 128, 255]], dtype=np.uint8)
    picture = Image.fromarray(mask)
    deep = Image.fromarray(mask.astype(np.uint16) * 257)
    for mode in ("L", "RGB", "LA", "RGBA", "CMYK", "P", "I", "1"):
        assert hole(picture.convert(mode))[0][::2] == [0, 1], mode
    assert hole(deep) == hole(deep.convert("I")) == [[0, 1, 1]]
    # A red brush on black, and white strokes on a transparent layer that hides white.
    assert hole(np.array([[[255, 0, 0], [0, 0, 0]]], dtype=np.uint8)) == [[1, 0]]
    assert hole(np.array([[[255, 255, 255, 255], [255, 255, 255, 0]]], dtype=np.uint8)) == [[1, 0]]


def test_one_mask_serves_a_batch():
    masks = torch.rand(3, 1, 4, 5) > 0.5
    for given in (masks, masks[:, 0]):
        assert np.array_equal(read_holes(given, 3, Options()), masks[:, 0].numpy())
    assert len(read_holes(masks[0], 3, Options())) == 3
    with pytest.raises(ValueError, match="3 masks for 2 images"):
        read_holes(masks, 2, Options())


def test_transparency():
    grey = Pixels(np.array([[[9, 127], [9, 128], [9, 255]]], dtype=np.uint8))
    assert transparent_hole(grey, Options()).tolist() == [[True, False, False]]
    assert transparent_hole(grey, Options(threshold=0)).tolist() == [[True, True, False]]
    colour = Pixels(np.array([[[0, 0, 0, 0.4], [0, 0, 0, 0.5]]]))
    assert transparent_hole(colour, Options()).tolist() == [[True, False]]
    with pytest.raises(ValueError, match="no transparency that could be the hole; give a mask"):
        transparent_hole(Pixels(np.zeros((1, 1, 3))), Options())


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.array([[0.0, 255.0]]), "floats from 0 to 1, got values from 0 to 255"),
        (np.array([[-1, 1]]), "integers from 0 to 1, 255 or 65535, got values from -1 to 1"),
        (np.array([[0, np.nan]]), "the mask is nan at row 0, column 1"),
        (np.zeros((0, 4)), r"no pixels, its shape is \[0, 4\]"),
        (np.zeros((3, 4, 5)), r"1, 3 or 4 channels, got \[3, 4, 5\]"),
        (torch.zeros(2, 3, 4, 5), r"\[B, 1, H, W\], got \[2, 3, 4, 5\]"),
    ],
)
def test_what_is_no_mask(mask, message):
    with pytest.raises(ValueError, match=message):
        read_holes(mask, 1, Options())


def test_wrong_types():
    with pytest.raises(TypeError, match="mask of dtype complex128"):
        read_holes(np.zeros((1, 1), dtype=complex), 1, Options())
    with pytest.raises(TypeError, match="a tensor, not str"):
        read_holes("mask.png", 1, Options())
