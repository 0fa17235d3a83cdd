"""Nearest resizing with coinciding corners."""

from fractions import Fraction

import pytest
import torch

from gatedvision.layers import resize_nearest_aligned


def test_halving_drifts_from_even_to_odd_pixels() -> None:
    x = torch.arange(64.0).expand(1, 1, 2, 64)
    columns = resize_nearest_aligned(x, 1, 32)[0, 0, 0].tolist()
    assert columns[:3] == [0, 2, 4] and columns[-3:] == [59, 61, 63]
    assert torch.equal(resize_nearest_aligned(x, 2, 128), x.repeat_interleave(2, 3))


@pytest.mark.parametrize(("size", "new_size"), [(34, 17), (64, 16), (7, 3), (5, 9), (1, 4), (6, 1)])
def test_every_pixel_comes_from_the_nearest(size: int, new_size: int) -> None:
    x = torch.arange(float(size))[None, None, :, None].expand(2, 3, size, 2)
    y = resize_nearest_aligned(x, new_size, 2)
    assert y.shape == (2, 3, new_size, 2)
    for index, source in enumerate(y[0, 0, :, 0].tolist()):
        exact = Fraction(index * (size - 1), max(new_size - 1, 1))
        assert abs(exact - int(source)) < Fraction(1, 2) or int(source) - exact == Fraction(1, 2)


def test_half_way_is_decided_in_single_precision() -> None:
    # 12 * 49 / 24 is 24.5, but 49 / 24 is not a float32 number.
    rows = resize_nearest_aligned(torch.arange(50.0)[None, None, :, None], 25, 1)
    single = torch.tensor(12.0) * (torch.tensor(49.0) / torch.tensor(24.0))
    assert rows[0, 0, 12, 0] == torch.floor(single.double() + 0.5)
