import copy

import numpy as np
import pytest
import torch
from PIL import Image

import gatedvision
from tests.inpainting.noise import HOLE, noise


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "float16", "float32", "float64"])
@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_arrays(network, dtype, channels):
    image = noise(*channels, dtype=dtype)
    before = image.copy()
    result = gatedvision.inpaint(image, HOLE, network)
    assert (result.dtype, result.shape) == (image.dtype, image.shape)
    assert np.array_equal(image, before) and not np.shares_memory(image, result)
    assert np.array_equal(result[~HOLE], image[~HOLE])
    white = 1 if image.dtype.kind == "f" else np.iinfo(image.dtype).max
    # The network saw the known colours in [-1, 1], and 0 in the hole.
    [(seen, mask)] = network.seen
    colours = (image.reshape(*HOLE.shape, -1)[..., :3].astype(float) / white * 2 - 1) * ~HOLE[..., None]
    assert seen.shape == (1, 3, 40, 56)
    assert np.abs(seen[0, :, :, :51].permute(1, 2, 0).numpy() - colours).max() < 1e-6
    # The hole has one colour, its answer.
    filled = result[HOLE] / white
    assert np.ptp(filled, axis=0).max() == 0
    if channels == (4,):
        assert (filled[:, 3] == 1).all()
    mean = (seen.sum((2, 3)) / (1 - mask).sum()).numpy()[0] / 2 + 0.5
    mean = mean if channels in ((3,), (4,)) else mean[:1]
    step = {"uint8": 0.5 / 255, "float16": 5e-4}.get(dtype, 1e-5)
    assert filled[0].reshape(-1)[:3] == pytest.approx(mean, abs=step + 1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("channels", [1, 3])
def test_tensors(network, dtype, batch, channels):
    image = torch.rand(*batch, channels, *HOLE.shape, requires_grad=True)
    image = image.to(dtype) if dtype.is_floating_point else (image * 255).to(torch.uint8).to(dtype)
    result = gatedvision.inpaint(image, torch.from_numpy(HOLE), network)
    assert (result.dtype, result.shape, result.requires_grad) == (dtype, image.shape, False)
    if dtype != torch.uint16:
        assert torch.equal(result[..., ~torch.from_numpy(HOLE)], image[..., ~torch.from_numpy(HOLE)])
        assert (result[..., 15, 30:] == result[..., 15:16, 30]).all()
    assert len(network.seen) == (batch or (1,))[0]


def test_each_sample_of_a_batch_has_its_mask(network):
    image = torch.rand(2, 3, 24, 32)
    mask = torch.zeros(2, 1, 24, 32)
    mask[1, :, 4:9, 5:7] = 1
    result = gatedvision.inpaint(image, mask, network)
    assert torch.equal(result[0], image[0]) and len(network.seen) == 1
    assert torch.equal(result != image, mask.bool().expand_as(image))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "CMYK", "I;16", "I"])
def test_pil_images(network, mode):
    picture = Image.fromarray(noise(3))
    picture = Image.fromarray(noise(dtype="uint16")) if mode == "I;16" else picture.convert(mode)
    picture.info["icc_profile"] = b"profile"
    result = gatedvision.inpaint(picture, Image.fromarray(HOLE), network)
    assert (result.mode, result.size, result.info["icc_profile"]) == (mode, picture.size, b"profile")
    values, before = np.asarray(result), np.asarray(picture)
    assert np.array_equal(values[~HOLE], before[~HOLE])
    assert np.ptp(values[HOLE].astype(int), axis=0).max() == 0 and (values[HOLE] != before[HOLE]).any()
    # The hole looks like the mean of what is around it; 1 has but black and white.
    if mode not in ("1", "I", "I;16"):
        shown, around = (np.asarray(image.convert("RGB"))[part] for image, part in ((result, HOLE), (picture, ~HOLE)))
        assert shown[0] == pytest.approx(around.mean(axis=0), abs=2)


def test_palettes_become_rgb(network):
    picture = Image.fromarray(noise(3)).quantize(16)
    result = gatedvision.inpaint(picture, HOLE, network)
    assert result.mode == "RGB"
    assert np.array_equal(np.asarray(result)[~HOLE], np.asarray(picture.convert("RGB"))[~HOLE])
    picture.info["transparency"] = 3
    assert gatedvision.inpaint(picture, HOLE, network).mode == "RGBA"


def test_transparency_is_the_hole_without_a_mask(network):
    image = noise(4)
    image[..., 3] = np.where(HOLE, 0, 200)
    result = gatedvision.inpaint(image, model=network)
    assert np.array_equal(result[~HOLE], image[~HOLE]) and (result[HOLE][:, 3] == 255).all()
    with pytest.raises(ValueError, match="no transparency"):
        gatedvision.inpaint(noise(3), model=network)


def test_an_empty_mask_returns_the_image_and_says_so(network):
    image = noise(3)
    with pytest.warns(UserWarning, match="the mask is empty: the image is returned unchanged"):
        result = gatedvision.inpaint(image, np.zeros_like(HOLE), network)
    assert np.array_equal(result, image) and not network.seen
    with pytest.warns(UserWarning, match="empty"):
        assert gatedvision.inpaint(np.full((1, 1), 0.5), np.zeros((1, 1)), network) == 0.5


def test_modes_and_devices_of_the_network(network):
    network.train()
    gatedvision.inpaint(noise(3), HOLE, network, device="cpu", amp="bf16")
    wide = gatedvision.inpaint(noise(3), HOLE, network)
    narrow = gatedvision.inpaint(noise(3), HOLE, copy.deepcopy(network).bfloat16())
    assert np.array_equal(narrow[~HOLE], wide[~HOLE]) and np.abs(narrow.astype(int) - wide).max() < 16
    assert network.training


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [
        (ValueError, {"mask": HOLE[:-1]}, "mask is 51 pixels wide and 39 high, the image 51 pixels wide and 40 high"),
        (ValueError, {"image": noise(5)}, r"1, 3 or 4 channels, got \[40, 51, 5\]"),
        (ValueError, {"image": torch.zeros(2, 40, 51)}, r"1, 3 or 4 channels, got \[2, 40, 51\]"),
        (ValueError, {"image": np.zeros((0, 4, 3))}, "all positive, got shape"),
        (ValueError, {"image": Image.new("LAB", (51, 40))}, "no inpainting in mode LAB; convert"),
        (ValueError, {"image": Image.new("I", (51, 40), -1)}, "values of a mode I image are 0 to 65535, got -1"),
        (TypeError, {"image": np.zeros((40, 51), dtype=int)}, "image of dtype int64; convert"),
        (TypeError, {"image": "photo.png"}, "not str"),
        (ValueError, {"threshold": 127.5}, "threshold must be a fraction of the mask's full scale, .*, got 127.5"),
        (ValueError, {"dilate": -1}, "dilate must be 0 pixels or more, got -1"),
        (ValueError, {"max_size": 32}, "max_size must be at least 64 pixels, got 32"),
        (ValueError, {"amp": "half"}, "amp must be one of bf16, fp16 or None, got 'half'"),
        (ValueError, {"model": None}, "no weights.*CC BY-NC 4.0.*tools/convert_checkpoint.py.*tools/train.py"),
        (ValueError, {"model": "none.pth"}, "no checkpoint at none.pth"),
    ],
)
def test_bad_arguments(network, error, arguments, message):
    arguments = {"image": noise(3), "mask": HOLE, "model": network} | arguments
    with pytest.raises(error, match=message):
        gatedvision.inpaint(**arguments)
