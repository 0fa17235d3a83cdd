"""Holes are distributed as published, and repeat with the seed of their sample."""

import numpy as np
import pytest
import torch

from gatedvision.data import FreeFormMask
from gatedvision.engine.seeded_data import SampleKey, SeededDataset

DRAWS = 800
# Mean and deviation of the covered share, and quantiles, over 3,000 holes of the published program at 256 x 256.
RECTANGLE = (FreeFormMask(strokes=(0, 0)), 0.192, 0.024, {})
STROKES = (FreeFormMask(rectangle=0), 0.151, 0.079, {5: 0.036, 50: 0.142, 95: 0.289})
UNION = (FreeFormMask(), 0.309, 0.069, {5: 0.207, 50: 0.303, 95: 0.430})


def areas(draw: FreeFormMask, height: int = 256, width: int = 256, draws: int = DRAWS) -> np.ndarray:
    torch.manual_seed(0)
    return np.array([draw(height, width).mean() for _ in range(draws)])


@pytest.mark.parametrize("case", [RECTANGLE, STROKES, UNION], ids=["rectangle", "strokes", "union"])
def test_areas_are_those_of_the_published_program(case):
    draw, mean, deviation, quantiles = case
    shares = areas(draw)
    # Both means have an error, and the published figures three digits.
    error = deviation * (1 / DRAWS + 1 / 3000) ** 0.5
    assert abs(shares.mean() - mean) < 3 * error + 0.0005
    assert shares.std() == pytest.approx(deviation, rel=0.1)
    for percent, value in quantiles.items():
        assert np.percentile(shares, percent) == pytest.approx(value, abs=0.02)


def test_rectangles_have_the_published_sizes_and_lie_anywhere():
    torch.manual_seed(0)
    corners = []
    for _ in range(300):
        hole = FreeFormMask(strokes=(0, 0))(256, 256)
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert hole.sum() == height * width
        assert {height % 2, width % 2} == {0} and 96 <= min(height, width) <= max(height, width) <= 128
        corners.append((rows[0], rows[-1], columns[0], columns[-1]))
    corners = np.array(corners)
    assert corners[:, ::2].min() < 10 and corners[:, 1::2].max() > 245


@pytest.mark.parametrize("size", [(64, 64), (512, 512), (96, 200), (1, 1), (7, 300)])
def test_holes_grow_with_the_image(size):
    draw = FreeFormMask()
    holes = [draw(*size) for _ in range(3)]
    assert all(hole.shape == size and hole.dtype == np.uint8 and hole.max() <= 1 for hole in holes)
    if size[0] == size[1] > 1:
        assert abs(areas(draw, *size, draws=150).mean() - 0.309) < 0.04


def test_an_area_can_be_asked_for():
    shares = areas(FreeFormMask(rectangle=0, strokes=(1, 8), brush=(8, 28), area=(0.2, 0.3)), draws=50)
    assert shares.min() >= 0.2 and shares.max() <= 0.3 and shares.std() > 0.01
    with pytest.raises(ValueError, match=r"none of 1000 holes covered \(0.9, 1.0\) of a 64x64 image"):
        FreeFormMask(strokes=(0, 0), area=(0.9, 1.0))(64, 64)


def test_holes_depend_on_seed_epoch_and_sample_alone():
    class Holes(torch.utils.data.Dataset):
        draw = FreeFormMask()

        def __getitem__(self, index: int) -> np.ndarray:
            return self.draw(64, 64)

    torch.manual_seed(1)
    before = torch.get_rng_state()
    data = SeededDataset(Holes(), seed=3)
    holes = {key: data[SampleKey(*key)] for key in ((0, 0), (0, 1), (1, 0))}
    assert torch.equal(torch.get_rng_state(), before)
    again = SeededDataset(Holes(), seed=3)
    for key in reversed(holes):
        np.testing.assert_array_equal(again[SampleKey(*key)], holes[key])
    assert len({hole.tobytes() for hole in holes.values()}) == 3
    assert (SeededDataset(Holes(), seed=4)[SampleKey(0, 0)] != holes[0, 0]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strokes": (3, 1)}, r"strokes must be a range of numbers from 0 on, got \(3, 1\)"),
        ({"segments": (0, 4)}, r"segments must be a range of numbers from 1 on"),
        ({"brush": (0, 4)}, r"brush must be a range of numbers from 1 on"),
        ({"area": (-1, 0.5)}, r"area must be a range of numbers from 0 on"),
        ({"rectangle": 300}, r"rectangle must be a side of 0 to 256 pixels, got 300"),
        ({"rectangle": 0, "strokes": (0, 0)}, r"a hole needs a rectangle or strokes"),
    ],
)
def test_settings_without_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FreeFormMask(**options)
