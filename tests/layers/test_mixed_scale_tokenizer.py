"""Tokens of two scales: regions shrink on their own, positions in between, and sizes that are no multiples."""

import pytest
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from gatedvision.layers.mixed_scale_tokenizer import cells_of, join_tokens, lost_detail, pad_to_regions, shrink


def rand(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("ratio", [2, 3, 4, 5, 6])
def test_regions_shrink_on_their_own(ratio: int) -> None:
    side = 4 * ratio
    x = rand(1, 3, 2 * side, 3 * side)
    small = shrink(x, ratio)
    alone = shrink(x[:, :, side:, side : 2 * side], ratio)
    torch.testing.assert_close(small[:, :, 4:, 4:8], alone)
    torch.testing.assert_close(small, F.interpolate(x, size=small.shape[2:], mode="bilinear"))


@pytest.mark.parametrize("ratio", [2, 4])
def test_detail_is_what_differs_from_the_means_of_squares(ratio: int) -> None:
    side = 4 * ratio
    x = torch.randn(2, 3, 2 * side, 3 * side, dtype=torch.float64)
    x[0, :, :side, :side] = 5.0
    found = lost_detail(x, ratio, side)
    region = x[1, :, side:, :side].unfold(1, ratio, ratio).unfold(2, ratio, ratio)
    variance = region.var((3, 4), unbiased=False).mean()
    torch.testing.assert_close(found[1, 3], torch.log(variance + 1e-4) / 2 + 2)
    assert found.shape == (2, 6) and abs(float(found[0, 0]) + 2.6) < 0.01
    # Of maps that are nearly even, half the numbers between 0 and 1 would not be enough.
    even = (5 + 0.02 * torch.randn(1, 3, side, side)).bfloat16()
    assert lost_detail(even, ratio, side).dtype == torch.float32
    wide = lost_detail(even.double(), ratio, side).float()
    torch.testing.assert_close(lost_detail(even, ratio, side), wide, rtol=0, atol=0.01)


def test_sizes() -> None:
    padded, grid = pad_to_regions(rand(1, 3, 33, 64), 32)
    assert padded.shape == (1, 3, 64, 64) and grid == (2, 2)
    assert torch.equal(padded[:, :, :33], rand(1, 3, 33, 64)) and not padded[:, :, 33:].any()
    assert cells_of(rand(1, 3, 33, 64), 16) == (3, 4)
    x = rand(1, 3, 64, 32)
    assert pad_to_regions(x, 32)[0] is x


@pytest.mark.parametrize("with_positions", [True, False])
def test_positions_of_coarse_tokens_are_means_of_the_fine_ones(with_positions: bool) -> None:
    coarse, fine, prefix = torch.zeros(2, 6, 5), torch.zeros(2, 24, 5), [torch.ones(1, 1, 5), 2 * torch.ones(1, 2, 5)]
    table = rand(1, 3 * with_positions + 24, 5)
    tokens = join_tokens(coarse, fine, prefix, table, (4, 6), (2, 3), 2, with_positions)
    assert tokens.shape == (2, 33, 5) and torch.equal(tokens[0], tokens[1])
    cells = table[0, -24:]
    assert torch.equal(tokens[0, 9:], cells)
    means = cells.view(2, 2, 3, 2, 5).mean((1, 3)).view(6, 5)
    torch.testing.assert_close(tokens[0, 3:9], means)
    expected = torch.cat(prefix, 1)[0] + (table[0, :3] if with_positions else 0)
    torch.testing.assert_close(tokens[0, :3], expected)


def test_another_grid_resizes_positions_first() -> None:
    table = rand(1, 16, 5)
    tokens = join_tokens(torch.zeros(1, 6, 5), torch.zeros(1, 24, 5), [], table, (4, 4), (2, 3), 2, False)
    cells = resample_abs_pos_embed(table, [4, 6], [4, 4], num_prefix_tokens=0)
    torch.testing.assert_close(tokens[:, 6:], cells)
    torch.testing.assert_close(tokens[0, :6], cells.view(2, 2, 3, 2, 5).mean((1, 3)).view(6, 5))


def test_no_positions_and_no_prefix() -> None:
    coarse, fine = rand(2, 6, 5), rand(2, 24, 5)
    tokens = join_tokens(coarse, fine, [], None, (4, 6), (2, 3), 2, False)
    assert torch.equal(tokens, torch.cat([coarse, fine], 1))
