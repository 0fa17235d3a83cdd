"""Contextual attention: holes are filled with patches from elsewhere in the map.

Shapes: h, w size of the map at half resolution, L = h w its pixels, each a query (what to fill) and a key (where to
take it from); R rows of queries that are worked on at once.
"""

from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gatedvision.layers._autocast import without_autocast
from gatedvision.layers._exporting import is_exporting
from gatedvision.layers._narrow_products import multiplies_narrow, product
from gatedvision.layers.resize_nearest import resize_nearest_aligned

# Scores held at once unless the caller says otherwise: 256 MiB in float32 for each of the handful of matrices.
MAX_SCORES = 2**26
MIN_NORM = 1e-4
# Keys of zeros at the ends, one before: with eight in all, rows of scores stay aligned for tensor cores.
MARGIN = 8


class _Sources(NamedTuple):
    """What all queries take from.

    Attributes:
        keys: ``[B, 9C, L]``, with a margin where scores are fused.
        divisors: of the scores, ``[B, 1, L]`` as the keys; None if these are divided already.
        values: ``[B, 16C, L]``.
        allowed: ``[B, 1, L]``, 1 for patches without a hole and 0 for others.
    """

    keys: Tensor
    divisors: Optional[Tensor]
    values: Tensor
    allowed: Tensor


class ContextualAttention(nn.Module):
    """Contextual attention (J. Yu et al., arXiv:1801.07892, section 3.2), as products summed in float32 or wider.

    With f the map at half resolution, its 3x3 patches P_q, and 4x4 patches V_p of the map itself, two pixels apart::

        S[q, p] = <P_q, P_p / max(|P_p|, 1e-4)>
        A[q, p] = m_p softmax_p(scale m_p fuse(S)[q, p])
        y = sum over q of (sum over p of A[q, p] V_p, put down at q) / 4

    m_p is 0 where the patch at p holds a hole, else 1. ``fuse`` adds to a score those of the pairs one step on and one
    back, (q - 1, p - 1) and (q + 1, p + 1), counted along rows, and then does so again counted along columns; where a
    line ends the next one follows.

    The memory for scores does not grow with the map, other than for a single row of queries, if ``block`` bounds them;
    the result is the same, and gradients compute each block again.

    The defaults, but for the mask of each sample, are what DeepFill v2 was published with, and its weights need them.

    Args:
        softmax_scale: factor of the scores.
        fuse: add scores of neighbouring pairs.
        masked_scores: ``"zero"``: patches with holes score 0, which takes its share of the softmax and is dropped
            after it, so that weights need not sum to 1; ``"exclude"``: they do not
            take part.
        overlap: what overlapping patches are divided by: ``"constant"``, 4, which darkens the border, or ``"count"``,
            the number of patches at each pixel.
        resize: how the map is halved: ``"aligned"``, nearest with coinciding corners, or ``"floor"``, every second
            pixel.
        first_mask_only: apply the first mask of a batch to all of it, as published.
        block: most queries worked on at once, rounded to rows of the halved map, at least one; None for all of them
            while that is up to 2**26 scores, and otherwise as many as make so many. Exported programs always take all.

    Raises:
        ValueError: for an unknown option.
    """

    def __init__(
        self,
        softmax_scale: float = 10.0,
        fuse: bool = True,
        masked_scores: str = "zero",
        overlap: str = "constant",
        resize: str = "aligned",
        first_mask_only: bool = False,
        block: Optional[int] = None,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("masked_scores", masked_scores, ("zero", "exclude")),
            ("overlap", overlap, ("constant", "count")),
            ("resize", resize, ("aligned", "floor")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be {known[0]!r} or {known[1]!r}, got {value!r}")
        if block is not None and block < 1:
            raise ValueError(f"block must be at least 1 query or None, got {block}")
        self.softmax_scale = softmax_scale
        self.fuse = fuse
        self.masked_scores = masked_scores
        self.overlap = overlap
        self.resize = resize
        self.first_mask_only = first_mask_only
        self.block = block

    def forward(self, x: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        """Fill a map from itself.

        Args:
            x: ``[B, C, H, W]``, H and W even.
            mask: ``[B, 1, H, W]``, 0 for known and anything above for holes; None if nothing is to be kept out.

        Returns:
            ``[B, C, H, W]`` in the dtype of ``x``.

        Raises:
            ValueError: if a side is odd or the mask does not fit.
        """
        if x.shape[2] % 2 or x.shape[3] % 2:
            raise ValueError(f"height and width must be even, got x {tuple(x.shape)}; pad it")
        if mask is not None:
            if self.first_mask_only:
                mask = mask[:1].expand(len(x), -1, -1, -1)
            if mask.shape != (x.shape[0], 1, *x.shape[2:]):
                raise ValueError(f"mask must be [B, 1, H, W] for x {tuple(x.shape)}, got {tuple(mask.shape)}")
        dtype = x.dtype if multiplies_narrow(x) else torch.promote_types(x.dtype, torch.float32)
        with without_autocast(x):
            return self._attend(x.to(dtype), mask).to(x.dtype)

    def _attend(self, x: Tensor, mask: Optional[Tensor]) -> Tensor:
        batch, size = x.shape[0], x.shape[2:]
        small = self._halve(x)
        height, width = small.shape[2:]
        queries = F.unfold(small, 3, padding=1)
        wide = torch.promote_types(x.dtype, torch.float32)
        norms = torch.linalg.vector_norm(queries, dim=1, keepdim=True, dtype=wide).clamp_min(MIN_NORM)
        # Sixteen-bit keys are divided by their norms behind the product, and not rounded once more before it.
        keys, divisors = (queries / norms, None) if wide == x.dtype else (queries, norms)
        values = F.unfold(x, 4, padding=1, stride=2)
        allowed = norms.new_ones(batch, 1, height * width) if mask is None else self._allowed(mask.to(wide))
        if self.fuse:
            # Keys end up counted along columns.
            values, allowed = (_along_columns(t, height, width) for t in (values, allowed))
            # The scores of a pair that would lie beyond an end are 0: those of a patch of zeros.
            beyond = queries.new_zeros(batch, queries.shape[1], 1)
            keys = torch.cat([beyond, keys, beyond.expand(-1, -1, MARGIN - 1)], 2)
            divisors = None if divisors is None else F.pad(divisors, (1, MARGIN - 1), value=1.0)
            # Beyond either end, after a patch of zeros, a line of the other end follows.
            ring = torch.cat([beyond, queries, beyond], 2)
            queries = torch.cat([ring[:, :, -width - 2 :], queries, ring[:, :, : width + 2]], 2)

        sources = _Sources(keys, divisors, values, allowed)
        rows = self._rows_at_once(batch, height, width)
        if rows >= height:
            y = self._attend_rows(queries, sources, height, width, True, True)
        else:
            y = self._attend_in_blocks(queries, sources, height, width, rows)
        y = F.fold(y, size, 4, padding=1, stride=2)
        if self.overlap == "constant":
            return y / 4
        ones = y.new_ones(1, 16, height * width)
        return y / F.fold(ones, size, 4, padding=1, stride=2)

    def _attend_in_blocks(self, queries: Tensor, sources: _Sources, height: int, width: int, rows: int) -> Tensor:
        needs_grad = torch.is_grad_enabled() and queries.requires_grad
        blocks = []
        for top in range(0, height, rows):
            count = min(rows, height - top)
            stop = (top + count) * width + (2 * width + 4 if self.fuse else 0)
            arguments = queries[:, :, top * width : stop], sources, count, width
            ends = top == 0, top + count == height
            if needs_grad:
                blocks.append(checkpoint(self._attend_rows, *arguments, *ends, use_reentrant=False))
            else:
                blocks.append(self._attend_rows(*arguments, *ends))
        return torch.cat(blocks, 2)

    def _attend_rows(
        self, queries: Tensor, sources: _Sources, rows: int, width: int, is_first: bool, is_last: bool
    ) -> Tensor:
        """Return what ``rows`` rows of queries gather: ``[B, 16C, rows * width]``."""
        keys, divisors, values, allowed = sources
        scores = product(queries.transpose(1, 2), keys)
        if divisors is not None:
            scores = scores / divisors
        if self.fuse:
            scores = _fuse(scores, rows, width, is_first, is_last)
        if self.masked_scores == "zero":
            weights = torch.softmax(scores * (self.softmax_scale * allowed), -1) * allowed
        else:
            # The least number rather than minus infinity, for weights to be numbers where all of them are dropped.
            scores = (self.softmax_scale * scores).masked_fill(allowed == 0, torch.finfo(scores.dtype).min)
            weights = torch.softmax(scores, -1) * allowed
        return product(values, weights.transpose(1, 2).to(values.dtype))

    def _halve(self, x: Tensor) -> Tensor:
        if self.resize == "aligned":
            return resize_nearest_aligned(x, x.shape[2] // 2, x.shape[3] // 2)
        return x[:, :, ::2, ::2]

    def _allowed(self, mask: Tensor) -> Tensor:
        """Return 1 for the patches without a hole and 0 for the others, ``[B, 1, L]``."""
        holes = F.max_pool2d(self._halve(mask), 3, stride=1, padding=1)
        return (holes <= 0).to(mask.dtype).flatten(2)

    def _rows_at_once(self, batch: int, height: int, width: int) -> int:
        # Sizes that a program leaves open cannot decide.
        if is_exporting():
            return height
        if self.block is not None:
            return max(self.block // width, 1)
        # A multiple of the map, for it to be linear in memory.
        return max(MAX_SCORES // (max(batch, 1) * height * width * width), 1)


def _along_columns(x: Tensor, height: int, width: int) -> Tensor:
    """Reorder the last axis of ``[..., L]`` from row-major to column-major."""
    return x.unflatten(-1, (height, width)).transpose(-1, -2).flatten(-2)


def _fuse(scores: Tensor, rows: int, width: int, is_first: bool, is_last: bool) -> Tensor:
    """Add the scores of the neighbouring pairs along rows, then along columns.

    Args:
        scores: ``[B, rows * w + 2 w + 4, L + MARGIN]``: of a line of queries before and after those wanted and of two
            more at either end, and of one more key before all and the rest of the margin after.
        rows: rows of queries wanted.
        width: their length.
        is_first: the first row is that of the map.
        is_last: the last row is that of the map.

    Returns:
        ``[B, rows * w, L]``, keys counted along columns.
    """
    keys = scores.shape[2] - MARGIN
    scores = scores[:, :-2, :keys] + scores[:, 1:-1, 1 : keys + 1] + scores[:, 2:, 2 : keys + 2]
    nothing = scores.new_zeros(scores.shape[0], scores.shape[1], 1)
    scores = torch.cat([nothing, _along_columns(scores, keys // width, width), nothing], 2)
    count = rows * width
    here = scores[:, width + 1 : width + 1 + count]
    # A row up and a row down; from the top of a column to the bottom of that before, and the reverse. A patch of zeros
    # stands between the ends, and the first and last column have none before and after them.
    before, after = scores[:, 1 : count + 1], scores[:, 2 * width + 1 : 2 * width + 1 + count]
    nothing = torch.zeros_like(scores[:, :1])
    if is_first:
        before = torch.cat([nothing, scores[:, : width - 1], before[:, width:]], 1)
    if is_last:
        after = torch.cat([after[:, : count - width], scores[:, count + width + 3 :], nothing], 1)
    return here[:, :, 1:-1] + before[:, :, :-2] + after[:, :, 2:]
