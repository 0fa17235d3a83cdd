import warnings

import numpy as np
import pytest
import torch

import gatedvision
from tests.inpainting.noise import HOLE, noise


def test_a_hole_of_everything_is_refused(network):
    for image, options in ((noise(3), {}), (np.zeros((1, 1), dtype=np.uint8), {})):
        with pytest.raises(ValueError, match="covers the whole image.*is it inverted"):
            gatedvision.inpaint(image, np.ones(image.shape[:2]), network, **options)
    single = np.ones_like(HOLE)
    single[7, 8] = False
    result = gatedvision.inpaint(noise(3), single, network)
    assert (np.abs(result.astype(int) - noise(3)[7, 8]) <= 1).all()


def test_dilation_takes_known_pixels(network):
    dot = np.zeros_like(HOLE)
    dot[20, 20] = True
    changed = gatedvision.inpaint(noise(3), dot, network, dilate=2) != noise(3)
    assert changed.any(axis=2).sum() > 10 and not changed[17].any() and changed[18, 20].any()


def test_the_hole_does_not_leak(network):
    dark, bright = noise(3), noise(3)
    dark[HOLE], bright[HOLE] = 0, 255
    assert np.array_equal(gatedvision.inpaint(dark, HOLE, network), gatedvision.inpaint(bright, HOLE, network))
    # Reduced, too, where cells of some 3 pixels lie across the hole's edge.
    network.seen.clear()
    for start in range(101, 105):
        image = np.full((400, 400), 100, dtype=np.uint8)
        hole = np.zeros((400, 400), dtype=bool)
        hole[start:290, start:290] = True
        image[hole] = 255
        assert (gatedvision.inpaint(image, hole, network, max_size=128) == 100).all()
    assert max(max(seen.shape) for seen, _ in network.seen) <= 128


def test_tiles_see_what_the_tiles_before_them_filled(network):
    hole = np.zeros((64, 600), dtype=bool)
    hole[30:34, 5:595] = True
    image = np.broadcast_to(np.linspace(0, 1, 600, dtype=np.float32), hole.shape).copy()
    gatedvision.inpaint(image, hole, network, max_size=128)
    masks = [mask for _, mask in network.seen]
    assert len(masks) > 5
    # The left half of later windows is no hole any more.
    assert all(mask[0, 0, 24:40, :20].sum() == 0 for mask in masks[1:])


def test_an_answer_that_is_not_finite_is_refused():
    class Broken(torch.nn.Module):
        def forward(self, image, mask):
            return image, image / 0

    with warnings.catch_warnings(), pytest.raises(ValueError, match="not finite; try without amp bf16"):
        gatedvision.inpaint(noise(3), HOLE, Broken(), amp="bf16")
