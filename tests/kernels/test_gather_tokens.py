"""Packing of tokens and their way back to a grid: against loops, their gradients, and what they refuse."""

import pytest
import torch
from torch import Tensor

from gatedvision_kernels import gather_tokens, gather_tokens_reference, scatter_tokens, scatter_tokens_reference

# Tokens, packed rows, cells, copies and channels: one of each; primes with rows and cells of zeros; rows over a block
# and channels over a block; and on a GPU 8 images of S/16.
SHAPES = [(1, 1, 1, 1, 1), (11, 7, 13, 2, 7), (37, 29, 71, 4, 300)] + [
    (1968, 988, 1568, 4, 384)
] * torch.cuda.is_available()


def gather_maps(num_tokens: int, num_rows: int, device: torch.device) -> dict[str, Tensor]:
    """Give most of the packed rows a token each, at random."""
    generator = torch.Generator().manual_seed(2)
    pairs = max(1, 3 * min(num_tokens, num_rows) // 4)
    tokens = torch.randperm(num_tokens, generator=generator)[:pairs]
    rows = torch.randperm(num_rows, generator=generator)[:pairs]
    index = torch.full((num_rows,), -1).scatter(0, rows, tokens)
    place = torch.full((num_tokens,), -1).scatter(0, tokens, rows)
    return {"index": index.to(device), "place": place.to(device)}


def scatter_maps(num_rows: int, num_cells: int, num_copies: int, device: torch.device) -> dict[str, Tensor]:
    """Give most rows up to so many of the cells, at random; no cell gets two."""
    generator = torch.Generator().manual_seed(3)
    cells = torch.full((num_rows, num_copies), -1)
    source = torch.full((num_cells,), -1)
    free = torch.randperm(num_cells, generator=generator).tolist()[: max(1, 3 * num_cells // 4)]
    for row in torch.randperm(num_rows, generator=generator).tolist():
        for copy in range(1 + row % num_copies):
            if free:
                cells[row, copy] = free.pop()
                source[cells[row, copy]] = row
    return {"source": source.to(device), "cells": cells.to(device)}


def test_references_are_loops(make_inputs, device):
    x, rows = make_inputs({"x": (11, 3), "rows": (7, 3)}, torch.float64).values()
    packed, back = gather_maps(11, 7, device), scatter_maps(7, 13, 2, device)
    gathered, scattered = torch.zeros_like(rows), torch.zeros_like(x).new_zeros(13, 3)
    for token, row in enumerate(packed["place"].tolist()):
        if row >= 0:
            gathered[row] = x[token]
    for row, cells in enumerate(back["cells"].tolist()):
        for cell in cells:
            if cell >= 0:
                scattered[cell] = rows[row]
    assert 0 < int((packed["index"] < 0).sum()) < 7 and 0 < int((back["source"] < 0).sum()) < 13
    assert torch.equal(gather_tokens_reference(x, **packed), gathered)
    assert torch.equal(scatter_tokens_reference(rows, **back), scattered)


def test_reference_gradients(make_inputs, device):
    x, rows = (t.requires_grad_() for t in make_inputs({"x": (5, 3), "rows": (4, 3)}, torch.float64).values())
    packed, back = gather_maps(5, 4, device).values(), scatter_maps(4, 6, 2, device).values()
    assert torch.autograd.gradcheck(lambda x: gather_tokens_reference(x, *packed), [x])
    assert torch.autograd.gradcheck(lambda rows: scatter_tokens_reference(rows, *back), [rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_agree(shape, dtype, make_inputs, assert_agrees, device):
    num_tokens, num_rows, num_cells, num_copies, width = shape
    packed = gather_maps(num_tokens, num_rows, device)
    inputs = make_inputs({"x": (num_tokens, width)}, dtype)
    assert_agrees(lambda x, backend: gather_tokens(x, **packed, backend=backend), inputs)
    back = scatter_maps(num_rows, num_cells, num_copies, device)
    inputs = make_inputs({"rows": (num_rows, width)}, dtype)
    assert_agrees(lambda rows, backend: scatter_tokens(rows, **back, backend=backend), inputs)


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_images_and_int32(backend, make_inputs, device):
    x = make_inputs({"x": (2, 3, 7)})["x"]
    index = torch.tensor([4, 0, 1], device=device)
    place = torch.tensor([[1, 2, -1], [-1, 0, -1]], device=device)
    rows = gather_tokens(x, index.int(), place.int(), backend=backend)
    assert torch.equal(rows, x.flatten(0, 1)[index])
    cells = torch.tensor([[3, 1], [0, -1], [2, -1]], device=device)
    source = torch.tensor([[1, 0], [2, 0]], device=device)
    grid = scatter_tokens(rows, source.int(), cells.int(), backend=backend)
    assert torch.equal(grid, rows[source])


X, INDEX, PLACE = torch.ones(2, 3, 5), torch.zeros(4, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long)
ROWS, SOURCE, CELLS = torch.ones(4, 5), torch.zeros(2, 6, dtype=torch.long), torch.zeros(4, 2, dtype=torch.long)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gather_tokens(X, INDEX, PLACE[:1]), r"got \(2, 3, 5\), \(4,\) and \(1, 3\)"),
        (lambda: gather_tokens(X, INDEX[None], PLACE), r"index \[M\].* got \(2, 3, 5\), \(1, 4\)"),
        (lambda: gather_tokens(X[..., :0], INDEX, PLACE), r"C > 0.* got \(2, 3, 0\)"),
        (lambda: gather_tokens(X.long(), INDEX, PLACE), "tokens must be floating point, got torch.int64"),
        (lambda: gather_tokens(X, INDEX.float(), PLACE), "index must be int32 or int64, got torch.float32"),
        (lambda: gather_tokens(X, INDEX, PLACE.to("meta")), "tokens lie on cpu, place on meta"),
        (lambda: scatter_tokens(ROWS, SOURCE, CELLS[:3]), r"cells \[M, K\].* got \(4, 5\) and \(3, 2\)"),
        (lambda: scatter_tokens(ROWS[None], SOURCE, CELLS), r"rows must be \[M, C\].* got \(1, 4, 5\)"),
        (lambda: scatter_tokens(ROWS, SOURCE.bool(), CELLS), "source must be int32 or int64, got torch.bool"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
