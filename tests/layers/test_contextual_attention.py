"""Contextual attention: the published operator, the same in blocks, and its options."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gatedvision.layers import ContextualAttention, contextual_attention, resize_nearest_aligned
from tests.golden.golden import draw_input, find_records

(RECORD,) = (record for record in find_records("inpainting") if record.name == "contextual_attention_op")
# Rows and columns of the hole, ends included; as the record words it.
HOLES = {
    "square_mask": (slice(4, 9), slice(5, 10)),
    "square_mask_nofuse": (slice(3, 7), slice(4, 8)),
    "wide_batch2_mask": (slice(3, 7), slice(6, 12)),
    "nomask": None,
    "tall_odd_half": (slice(4, 10), slice(3, 6)),
    "all_masked": (slice(None), slice(None)),
}
SIZES = {
    "square_mask": ((1, 8, 16, 16), 10),
    "square_mask_nofuse": ((1, 6, 12, 12), 10),
    "wide_batch2_mask": ((2, 4, 12, 20), 11),
    "nomask": ((1, 6, 12, 12), 12),
    "tall_odd_half": ((1, 6, 18, 10), 13),
    "all_masked": ((1, 4, 8, 8), 15),
}


@pytest.mark.parametrize("block", [None, 1, 21])
@pytest.mark.parametrize("name", RECORD.facts["kwargs"])
def test_record(name: str, block: int | None) -> None:
    shape, seed = SIZES[name]
    x = draw_input(*shape, seed=seed)
    mask = None
    if HOLES[name] is not None:
        mask = x.new_zeros(shape[0], 1, *shape[2:])
        rows, columns = HOLES[name]
        mask[:, :, rows, columns] = 1
    layer = ContextualAttention(fuse=RECORD.facts["kwargs"][name]["fuse"], block=block)
    torch.testing.assert_close(layer(x, mask), RECORD.arrays()[name], rtol=0, atol=1e-9)


def naive(x: Tensor, mask: Tensor, exclude: bool = False, count: bool = False, floor: bool = False) -> Tensor:
    """Compute the definition patch by patch for one image ``[C, H, W]``, the scores fused by matrices of shifts."""
    channels, height, width = x.shape
    h, w = height // 2, width // 2

    def halve(t: Tensor) -> Tensor:
        return t[:, ::2, ::2] if floor else resize_nearest_aligned(t[None], h, w)[0]

    small, holes = F.pad(halve(x), (1, 1, 1, 1)), F.pad(halve(mask), (1, 1, 1, 1))
    places = [(i, j) for i in range(h) for j in range(w)]
    patches = torch.stack([small[:, i : i + 3, j : j + 3].flatten() for i, j in places])
    allowed = torch.tensor([float(holes[:, i : i + 3, j : j + 3].sum() == 0) for i, j in places]).to(x)
    scores = patches @ (patches / patches.norm(dim=1, keepdim=True).clamp_min(1e-4)).T
    order = torch.tensor([i * w + j for j in range(w) for i in range(h)])
    shift = torch.diag(x.new_ones(h * w - 1), 1)
    scores = scores + shift @ scores @ shift.T + shift.T @ scores @ shift
    by_column = scores[order][:, order]
    by_column = by_column + shift @ by_column @ shift.T + shift.T @ by_column @ shift
    scores = by_column[order.argsort()][:, order.argsort()]
    if exclude:
        weights = (10 * scores + allowed.log()).softmax(1)
    else:
        weights = (10 * scores * allowed).softmax(1) * allowed
    padded, y = F.pad(x, (1, 1, 1, 1)), x.new_zeros(channels, height + 2, width + 2)
    overlap = torch.zeros_like(y)
    pasted = torch.stack([padded[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] for i, j in places])
    for (i, j), row in zip(places, weights, strict=True):
        y[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += torch.einsum("p,pcij->cij", row, pasted)
        overlap[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += 1
    return (y / (overlap if count else 4))[:, 1:-1, 1:-1]


def maps(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return maps and a mask of its own for each."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) / 4
    mask = torch.zeros(shape[0], 1, *shape[2:], dtype=torch.float64)
    for index in range(len(mask)):
        mask[index, :, index : index + shape[2] // 3, 2 * index : 2 * index + shape[3] // 4] = 1
    return x.to(dtype), mask.to(dtype)


@pytest.mark.parametrize("size", [(8, 10), (2, 8), (6, 2), (2, 2)], ids=str)
@pytest.mark.parametrize("options", [{}, {"exclude": True, "count": True, "floor": True}], ids=["published", "other"])
def test_definition_patch_by_patch(size: tuple[int, int], options: dict[str, bool]) -> None:
    x, mask = maps(2, 3, *size)
    if options:
        # Where nothing is left, the other form has no answer.
        mask[:] = 0
        mask[:, :, : size[0] // 4] = 1
    layer = ContextualAttention(
        masked_scores="exclude" if "exclude" in options else "zero",
        overlap="count" if "count" in options else "constant",
        resize="floor" if "floor" in options else "aligned",
    )
    expected = torch.stack([naive(*pair, **options) for pair in zip(x, mask, strict=True)])
    torch.testing.assert_close(layer(x, mask), expected)


def run(layer: ContextualAttention, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x, mask)
    (gradient,) = torch.autograd.grad((y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum(), x)
    return y, gradient


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("block", [1, 7, 40, 10**6])
def test_blocks_change_nothing(block: int, fuse: bool, dtype: torch.dtype, tolerance: float) -> None:
    x, mask = maps(2, 5, 22, 14, dtype=dtype)
    y, gradient = run(ContextualAttention(fuse=fuse, block=block), x, mask)
    expected, expected_gradient = run(ContextualAttention(fuse=fuse, block=10**6), x, mask)
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradient, expected_gradient, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("block", [None, 4])
def test_gradients(block: int | None) -> None:
    x, mask = maps(1, 2, 6, 8)
    layer = ContextualAttention(block=block)
    assert torch.autograd.gradcheck(lambda x: layer(x, mask), x.requires_grad_())


def largest_matrix(monkeypatch: pytest.MonkeyPatch, *size: int) -> int:
    """Return the most scores that were worked on at once."""
    found = []
    softmax = torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda x, *args: found.append(x.numel()) or softmax(x, *args))
    layer = ContextualAttention()
    layer(*maps(1, 1, *size, dtype=torch.float32))
    return max(found)


def test_scores_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatedvision.layers.contextual_attention.MAX_SCORES", 2**14)
    assert largest_matrix(monkeypatch, 16, 16) == 64 * 64
    # 4 and 16 times the queries; and no more than the bound.
    assert largest_matrix(monkeypatch, 32, 32) <= 2**14
    assert largest_matrix(monkeypatch, 64, 32) <= 2**14


def test_masks_belong_to_their_samples() -> None:
    x, mask = maps(3, 4, 12, 16)
    layer = ContextualAttention()
    together = layer(x, mask)
    for index in range(3):
        alone = layer(x[index : index + 1], mask[index : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone)
    published = ContextualAttention(first_mask_only=True)(x, mask)
    torch.testing.assert_close(published, layer(x, mask[:1].expand_as(mask)))
    assert not torch.allclose(published, together)


def test_no_mask_is_a_mask_without_holes() -> None:
    x, mask = maps(2, 4, 8, 12)
    layer = ContextualAttention()
    torch.testing.assert_close(layer(x), layer(x, torch.zeros_like(mask)))
    torch.testing.assert_close(layer(x), layer(x, torch.zeros_like(mask, dtype=torch.bool)))


def test_maps_of_zeros_have_gradients() -> None:
    x, mask = maps(1, 3, 8, 8)
    _, gradient = run(ContextualAttention(), x * 0, mask)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_narrow_maps_are_worked_on_in_float32(dtype: torch.dtype) -> None:
    # Scores of some 1e5, times ten: beyond float16.
    x, mask = maps(1, 16, 16, 16, dtype=torch.float32)
    x = (400 * x).to(dtype)
    layer = ContextualAttention()
    y, expected = layer(x, mask), layer(x.float(), mask)
    assert y.dtype == dtype and y.isfinite().all()
    torch.testing.assert_close(y, expected.to(dtype), rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x.float(), mask), expected, rtol=0, atol=0)


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("block", [None, 8])
@pytest.mark.parametrize("overlap", ["constant", "count"])
def test_narrow_products_agree(fuse: bool, block: int | None, overlap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What GPUs compute of sixteen bits, with products that are widened here."""
    x, mask = maps(2, 6, 16, 12, dtype=torch.float32)
    x = x.bfloat16()
    layer = ContextualAttention(fuse=fuse, block=block, overlap=overlap)
    expected = layer(x.float(), mask)
    products = []

    def product(a: Tensor, b: Tensor) -> Tensor:
        assert a.dtype == b.dtype == torch.bfloat16
        products.append(a.float() @ b.float())
        return products[-1]

    monkeypatch.setattr(contextual_attention, "multiplies_narrow", lambda x: True)
    monkeypatch.setattr(contextual_attention, "product", product)
    y = layer(x, mask)
    assert products and y.dtype == torch.bfloat16
    # Weights and results are rounded, scores are not.
    assert (y.float() - expected).abs().max() <= 2**-7 * expected.abs().max()
    assert (y.float() - expected).std() <= 2**-9 * expected.std()


def test_compiles_to_one_graph_for_all_sizes() -> None:
    torch._dynamo.reset()
    layer = ContextualAttention()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in ((12, 8), (16, 20)):
        x, mask = maps(2, 3, *size)
        torch.testing.assert_close(run(compiled, x, mask), run(layer, x, mask))


def test_nothing_to_take_from_gives_nothing() -> None:
    x, mask = maps(1, 3, 8, 8)
    for masked_scores in ("zero", "exclude"):
        y = ContextualAttention(masked_scores=masked_scores)(x, torch.ones_like(mask))
        assert torch.equal(y, torch.zeros_like(y))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"masked_scores": "none"}, "masked_scores must be 'zero' or 'exclude', got 'none'"),
        ({"overlap": "mean"}, "overlap must be 'constant' or 'count', got 'mean'"),
        ({"resize": "bilinear"}, "resize must be 'aligned' or 'floor', got 'bilinear'"),
        ({"block": 0}, "block must be at least 1 query or None, got 0"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContextualAttention(**options)


def test_bad_shapes_are_named() -> None:
    layer = ContextualAttention()
    with pytest.raises(ValueError, match=r"must be even, got x \(1, 2, 5, 4\); pad it"):
        layer(torch.ones(1, 2, 5, 4))
    with pytest.raises(ValueError, match=r"mask must be \[B, 1, H, W\] for x \(2, 2, 4, 4\), got \(1, 1, 4, 4\)"):
        layer(torch.ones(2, 2, 4, 4), torch.ones(1, 1, 4, 4))
