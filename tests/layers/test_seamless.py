"""Continuing what is known, and painting without a step."""

import numpy as np
import pytest
import torch
from torch import Tensor

from gatedvision.layers.seamless import clone_seamlessly, membrane


def scene(height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smooth colours ``[2, 3, H, W]`` and holes ``[2, 1, H, W]``, one of which reaches the image's border."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    image = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
    hole = torch.zeros(2, 1, height, width, dtype=torch.bool)
    hole[0, :, height // 4 : height // 2, width // 3 : 2 * width // 3] = True
    hole[1, :, height // 2 :, : width // 2] = True
    return image, hole


def solve_laplace(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Make every unknown value the mean of its neighbours within the image, exactly: ``[H, W]``."""
    height, width = values.shape
    places = np.flatnonzero(~known)
    row_of = {place: row for row, place in enumerate(places)}
    matrix, right = np.zeros((len(places), len(places))), np.zeros(len(places))
    for row, place in enumerate(places):
        y, x = divmod(place, width)
        around = [(y + dy, x + dx) for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1))]
        around = [(a, b) for a, b in around if 0 <= a < height and 0 <= b < width]
        matrix[row, row] = len(around)
        for a, b in around:
            if known[a, b]:
                right[row] += values[a, b]
            else:
                matrix[row, row_of[a * width + b]] -= 1
    filled = values.copy()
    filled.flat[places] = np.linalg.solve(matrix, right)
    return filled


@pytest.mark.parametrize("size", [(32, 32), (45, 70)])
def test_membrane_solves_laplace_s_equation_nearly(size):
    image, hole = scene(*size)
    found = membrane(image, ~hole)
    for values, known, filled in zip(image, ~hole, found, strict=True):
        for channel, result in zip(values.numpy(), filled.numpy(), strict=True):
            exact = solve_laplace(channel, known[0].numpy())
            # Most at the image's corner, the farthest from what is known.
            off = np.abs(result - exact) / (channel.max() - channel.min())
            assert off.max() < 0.13
            assert off[~known[0].numpy()].mean() < 0.09


def test_known_values_stay_and_what_the_hole_holds_does_not_matter():
    image, hole = scene(40, 56)
    filled = membrane(image, ~hole)
    assert torch.equal(filled.masked_select(~hole), image.masked_select(~hole))
    torch.testing.assert_close(membrane(torch.where(hole, 1e3, image), ~hole), filled)
    low, high = (f(image.where(~hole, i)) for f, i in ((torch.amin, 9.0), (torch.amax, -9.0)))
    assert ((filled >= low) & (filled <= high)).all(), "a mean of what is known leaves no range"


def test_a_painting_that_is_off_by_a_constant_is_the_image():
    image, hole = scene(40, 56)
    result = clone_seamlessly(image, hole, image + torch.tensor([0.3, -0.2, 0.1]).view(3, 1, 1))
    torch.testing.assert_close(result, image)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1), dtype=image.dtype)
    result = clone_seamlessly(image.float(), hole, (image + noise).bfloat16())
    assert result.dtype == torch.float32
    assert torch.equal(result.masked_select(~hole), image.float().masked_select(~hole))


def test_details_are_kept():
    """A stripe that the image continues: a smooth continuation loses it, the painted one does not."""
    image, hole = scene(64, 64)
    stripe = torch.zeros(64, 64, dtype=image.dtype)
    stripe[:, 30:34] = 1.0
    whole, painted = image + stripe, 0.5 * image + stripe
    error = (clone_seamlessly(whole, hole, painted) - whole).abs().mean()
    smooth = (membrane(whole, ~hole) - whole).abs().mean()
    assert error < 0.3 * smooth


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2), (200, 5)])
def test_any_size_and_nothing_known(size):
    values = torch.ones(1, 2, *size)
    known = torch.zeros(1, 1, *size, dtype=torch.bool)
    assert torch.equal(membrane(values, known), torch.zeros_like(values))
    known[..., -1] = True
    torch.testing.assert_close(membrane(values, known), values)


def test_gradient():
    image, hole = scene(12, 10)
    painted = torch.rand(image.shape, generator=torch.Generator().manual_seed(2), dtype=image.dtype, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: clone_seamlessly(image, hole, x), painted)


def test_full_precision_under_autocast():
    image, hole = scene(32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        found = membrane(image.float(), ~hole)
    assert torch.equal(found, membrane(image.float(), ~hole))
