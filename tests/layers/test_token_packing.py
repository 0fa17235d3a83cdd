"""Packing of tokens of two scales: against loops over regions, the way back, trimming, and FlexAttention's mask."""

from functools import partial
from typing import Any, Optional
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from gatedvision.layers import token_packing
from gatedvision.layers.mixed_scale_gate import RegionChoice
from gatedvision.layers.token_packing import (
    Layout,
    block_diagonal_mask,
    find_cells,
    pack_tokens,
    prefix_rows,
    resolve_form,
    round_length,
    unpack_tokens,
)
from gatedvision_kernels import gather_tokens, scatter_tokens

GRID, RATIO, PREFIX, SIZE = (2, 3), 2, 2, (3, 5)
REGIONS, TOTAL = 6, 2 + 6 + 24
FORMS = ["padded", "jagged", "dense"]


def layout(coarse: Tensor, straight: Optional[Tensor] = None, num_fine: Optional[int] = None, **other: Any) -> Layout:
    about = {"num_prefix": PREFIX, "ratio": RATIO, "size": SIZE, **other}
    return Layout(RegionChoice(coarse, coarse.float(), straight, num_fine, GRID), **about)


def random_choice(batch: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(batch, REGIONS, generator=torch.Generator().manual_seed(seed)) > 0.5


def numbered(batch: int = 3) -> Tensor:
    """Make tokens that say which they are: image, then token."""
    image, token = torch.meshgrid(torch.arange(batch), torch.arange(TOTAL), indexing="ij")
    return torch.stack([image, token], dim=-1).double()


def active_by_loop(coarse: Tensor) -> list[int]:
    """List the active tokens of one image, in order."""
    found = [*range(PREFIX), *(PREFIX + region for region in range(REGIONS) if coarse[region])]
    for y in range(GRID[0] * RATIO):
        for x in range(GRID[1] * RATIO):
            if not coarse[(y // RATIO) * GRID[1] + x // RATIO]:
                found.append(PREFIX + REGIONS + y * GRID[1] * RATIO + x)
    return found


def grid_by_loop(coarse: Tensor) -> list[int]:
    """List the token that each prefix token and each cell of one image shows."""
    found = list(range(PREFIX))
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            region = (y // RATIO) * GRID[1] + x // RATIO
            fine = PREFIX + REGIONS + y * GRID[1] * RATIO + x
            found.append(PREFIX + region if coarse[region] else fine)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_there_and_back(form: str) -> None:
    coarse = random_choice()
    rows, packing = pack_tokens(numbered(), layout(coarse), form, False, 1.0)
    attended = rows.reshape(-1, 2) if packing.active is None else rows.reshape(-1, 2)[packing.active]
    expected = [[image, token] for image in range(3) for token in active_by_loop(coarse[image])]
    assert (
        attended.tolist() == expected
        and len({tuple(row) for row in rows.reshape(-1, 2).tolist()}) == rows[..., 0].numel()
    )
    assert prefix_rows(rows, packing).tolist() == numbered()[:, :PREFIX].tolist()
    full = unpack_tokens(rows, packing, find_cells(packing))
    assert full.tolist() == [[[image, token] for token in grid_by_loop(coarse[image])] for image in range(3)]


@pytest.mark.parametrize("form", [*FORMS, "learning"])
def test_inverse_maps_say_the_same(form: str) -> None:
    coarse = random_choice()
    straight = coarse.double().requires_grad_() if form == "learning" else None
    _, packing = pack_tokens(numbered(), layout(coarse, straight), form, straight is not None, 0.4)
    chosen, others = find_cells(packing)
    assert (others is None) == (straight is None)
    for source, cells in (chosen, others or chosen):
        pairs = {(row, cell) for cell, row in enumerate(source.flatten().tolist()) if row >= 0}
        assert pairs == {(row, cell) for row, found in enumerate(cells.tolist()) for cell in found if cell >= 0}
    assert all(packing.place.flatten()[token] == row for row, token in enumerate(packing.tokens.tolist()))
    assert int((packing.place >= 0).sum()) == len(packing.tokens)


@pytest.mark.parametrize("form", ["padded", "jagged", "learning"])
def test_kernels_sum_gradients_by_the_inverse_maps(form: str) -> None:
    coarse = random_choice()
    x = torch.randn(3, TOTAL, 5, generator=torch.Generator().manual_seed(3))
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def there_and_back(backend: str) -> list[Tensor]:
        straight = coarse.float().to(device).requires_grad_()
        leaves = [x.clone().to(device).requires_grad_(), straight]
        about = layout(coarse.to(device), straight if form == "learning" else None)
        torch.manual_seed(0)
        with (
            patch.object(token_packing, "gather_tokens", partial(gather_tokens, backend=backend)),
            patch.object(token_packing, "scatter_tokens", partial(scatter_tokens, backend=backend)),
        ):
            rows, packing = pack_tokens(leaves[0], about, form, form == "learning", 0.4)
            full = unpack_tokens(rows.square(), packing, find_cells(packing))
            seed = torch.arange(float(full.numel()), device=device).view(full.shape).sin()
            return [full.detach(), *torch.autograd.grad(full, leaves[: 1 + (form == "learning")], seed)]

    torch.testing.assert_close(there_and_back("triton"), there_and_back("reference"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("num_fine", "known"), [(2, True), (2, False), (0, False), (6, False)])
def test_images_of_one_length_need_no_mask(num_fine: int, known: bool) -> None:
    coarse = torch.stack([torch.arange(REGIONS).roll(shift) >= num_fine for shift in range(3)])
    rows, packing = pack_tokens(numbered(), layout(coarse, num_fine=num_fine if known else None), "jagged", False, 1.0)
    assert rows.shape == (3, PREFIX + REGIONS + 3 * num_fine, 2) and packing.form == "padded"
    assert packing.active is None and packing.gates is None
    assert rows[..., 1].tolist() == [active_by_loop(one) for one in coarse]


def learning(spare: float, coarse: Tensor, straight: Tensor) -> tuple[Tensor, Any]:
    torch.manual_seed(0)
    return pack_tokens(numbered(), layout(coarse, straight), "auto", True, spare)


def test_training_trims_to_the_fullest_image() -> None:
    coarse = random_choice()
    straight = coarse.double().requires_grad_()
    longest = max(len(active_by_loop(one)) for one in coarse)
    lengths = {spare: learning(spare, coarse, straight)[0].shape[1] for spare in (0.0, 0.5, 1.0)}
    assert lengths == {0.0: longest, 0.5: longest + (TOTAL - longest + 1) // 2, 1.0: TOTAL}
    rows, packing = learning(0.0, coarse, straight)
    gates = packing.gates.view(3, -1)
    for image in range(3):
        active = active_by_loop(coarse[image])
        assert rows[image, : len(active), 1].tolist() == active
        assert gates[image].tolist() == [1.0] * len(active) + [0.0] * (longest - len(active))


@pytest.mark.parametrize("total", [3, 32, 63, 64, 246])
def test_lengths_repeat(total: int) -> None:
    lengths = [round_length(length, total) for length in range(1, total + 1)]
    assert all(length <= rounded <= total for length, rounded in enumerate(lengths, 1))
    assert lengths[-1] == total and len(set(lengths)) < 64
    # Small numbers are taken as they are.
    assert total >= 64 or lengths == list(range(1, total + 1))


def test_gradients_of_gates_do_not_depend_on_trimming_in_the_mean() -> None:
    coarse = random_choice()
    straight = coarse.double().requires_grad_()
    weights = torch.randn(3 * TOTAL, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def slope(spare: float) -> Tensor:
        packing: Any = pack_tokens(numbered(), layout(coarse, straight), "auto", True, spare)[1]
        return torch.autograd.grad((packing.gates * weights[packing.tokens]).sum(), straight)[0]

    exact = slope(1.0)
    torch.manual_seed(0)
    draws = torch.stack([slope(0.4) for _ in range(1500)])
    assert draws.std(0).max() > 0.5
    torch.testing.assert_close(draws.mean(0), exact, rtol=0, atol=0.3)
    # The number that stays of all coarse and fine tokens that are not active, each with its weight.
    by_region = weights.view(3, TOTAL)[:, PREFIX : PREFIX + REGIONS].clone()
    for region in range(REGIONS):
        y, x = divmod(region, GRID[1])
        for cell in range(4):
            column = (RATIO * y + cell // 2) * GRID[1] * RATIO + RATIO * x + cell % 2
            by_region[:, region] -= weights.view(3, TOTAL)[:, PREFIX + REGIONS + column]
    torch.testing.assert_close(exact, by_region)


def test_cells_mix_both_scales_by_the_gate() -> None:
    coarse = random_choice()
    straight = coarse.double().requires_grad_()
    rows, packing = learning(1.0, coarse, straight)
    full = unpack_tokens(rows, packing, find_cells(packing))
    plain, hard = pack_tokens(numbered(), layout(coarse), "padded", False, 1.0)
    assert torch.equal(full, unpack_tokens(plain, hard, find_cells(hard)))
    seed = torch.randn(full.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (slope,) = torch.autograd.grad((full * seed).sum(), straight)
    expected = torch.zeros_like(slope)
    for image in range(3):
        for cell in range(SIZE[0] * SIZE[1]):
            y, x = divmod(cell, SIZE[1])
            region = (y // RATIO) * GRID[1] + x // RATIO
            fine = PREFIX + REGIONS + y * GRID[1] * RATIO + x
            step = numbered()[image, PREFIX + region] - numbered()[image, fine]
            expected[image, region] += (seed[image, PREFIX + cell] * step).sum()
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("lengths", [[5, 300, 1, 130, 127, 129], [128, 128], [1], [1] * 260])
def test_flex_mask_covers_all_images_and_little_more(lengths: list[int]) -> None:
    total = sum(lengths)
    offsets = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
    mask = block_diagonal_mask(offsets, total)
    blocks = -(-total // 128)
    image = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    expected = torch.zeros(blocks, blocks, dtype=torch.long)
    for row in range(blocks):
        for column in range(blocks):
            pair = (image[128 * row : 128 * row + 128, None] == image[None, 128 * column : 128 * column + 128]).any()
            expected[row, column] = int(pair)
    dense = mask.to_dense()[0, 0]
    assert torch.equal(dense.long(), expected)
    q, k = torch.meshgrid(torch.arange(total), torch.arange(total), indexing="ij")
    assert torch.equal(mask.mask_mod(0, 0, q, k), image[:, None] == image[None])


def test_forms_by_device() -> None:
    x = torch.ones(1, 2, 3)
    assert resolve_form("auto", x) == "padded" and resolve_form("jagged", x) == "jagged"
    with pytest.raises(
        ValueError, match="packing 'varlen' needs a GPU, sixteen bits and torch 2.10, got torch.float32 on"
    ):
        resolve_form("varlen", x)
    # What has no values takes all tokens.
    coarse = random_choice().to("meta")
    rows, packing = pack_tokens(numbered().to("meta"), layout(coarse), "auto", False, 1.0)
    assert rows.shape == (3, TOTAL, 2) and packing.active.shape == (3 * TOTAL,)
