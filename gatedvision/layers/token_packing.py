"""Which tokens of two scales go through a transformer, how images of different length share a batch, and the way back.

An image has T tokens in this order: P prefix tokens, R coarse ones row by row, and the fine ones row by row. Prefix
tokens are always active; of a region either its coarse token is, or all K = ratio² fine ones are.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from math import ceil
from typing import Any, NamedTuple, Optional

import torch
from timm.layers import register_notrace_function
from torch import Tensor

from gatedvision.layers._exporting import is_exporting
from gatedvision.layers.mixed_scale_gate import RegionChoice
from gatedvision_kernels import gather_tokens, scatter_tokens

FORMS = ("auto", "padded", "varlen", "jagged", "flex", "dense")
# Rows of a block of FlexAttention.
FLEX_BLOCK = 128
# About how many lengths there are to which training trims: memory of a size that was there before is taken again.
LENGTHS = 32


class Layout(NamedTuple):
    """The tokens of images, before any is left out.

    Attributes:
        choice: which regions are coarse.
        num_prefix: P.
        ratio: sides of a fine patch in that of a region.
        size: rows and columns of fine cells that the image has, without those of its padding.
    """

    choice: RegionChoice
    num_prefix: int
    ratio: int
    size: tuple[int, int]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of regions."""
        return self.choice.grid

    @property
    def length(self) -> Optional[int]:
        """Active tokens of each image, if that is known beforehand."""
        if self.choice.num_fine is None:
            return None
        return self.num_prefix + self.grid[0] * self.grid[1] + (self.ratio**2 - 1) * self.choice.num_fine

    @property
    def longest(self) -> int:
        """Active tokens of an image that is fine all over."""
        return self.num_prefix + self.grid[0] * self.grid[1] * self.ratio**2

    def by_token(self, prefix: float, coarse: Tensor, fine: Tensor) -> Tensor:
        """Lay out ``[B, R]`` for coarse tokens, and for the fine ones of each region, as ``[B, T]``."""
        fine = fine[:, regions_of_cells(self.grid, self.ratio, fine.device)]
        return torch.cat([coarse.new_full((coarse.shape[0], self.num_prefix), prefix), coarse, fine], dim=1)

    def active(self) -> Tensor:
        """Return which tokens are active, ``[B, T]`` bool."""
        return self.by_token(True, self.choice.coarse, ~self.choice.coarse)


class Packing(NamedTuple):
    """Rows of tokens that go through a transformer, and where they are from.

    Attributes:
        layout: what there is to choose from.
        form: ``"padded"`` for rows ``[B, L, C]``; ``"varlen"``, ``"jagged"`` or ``"flex"`` for ``[1, M, C]``, image
            after image.
        tokens: ``[M]``, the token of each row, image * T + token.
        place: ``[B, T]``, the row of each token, negative for those left out.
        active: ``[M]`` bool, which rows others attend to; ``None`` for all.
        gates: ``[M]``, 1 for active rows and 0 for others, with the gradient of the gate; ``None`` without one.
        offsets: ``[B + 1]`` int32, where each image starts, for the forms of one sequence.
        block_mask: of FlexAttention.
    """

    layout: Layout
    form: str
    tokens: Tensor
    place: Tensor
    active: Optional[Tensor] = None
    gates: Optional[Tensor] = None
    offsets: Optional[Tensor] = None
    block_mask: Any = None


def regions_of_cells(grid: tuple[int, int], ratio: int, device: torch.device) -> Tensor:
    """Return the region of each fine cell, cells row by row, ``[R * ratio²]``."""
    regions = torch.arange(grid[0] * grid[1], device=device).view(grid[0], 1, grid[1], 1)
    return regions.expand(-1, ratio, -1, ratio).reshape(-1)


def has_varlen() -> bool:
    """Tell whether torch has attention over sequences of any length as a function, from 2.10 on."""
    return find_spec("torch.nn.attention.varlen") is not None


def resolve_form(form: str, x: Tensor) -> str:
    """Choose a form for tokens on their device, in their dtype or that of autocast.

    The fastest on a GPU is one kernel over sequences of any length; in float32, and where torch is older than 2.10,
    nested tensors have one.

    Raises:
        ValueError: if ``"varlen"`` is asked for where there is no such kernel.
    """
    if form not in ("auto", "varlen"):
        return form
    dtype = x.dtype
    if x.is_cuda and torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
    varlen = x.is_cuda and dtype in (torch.float16, torch.bfloat16) and has_varlen()
    if form == "varlen" and not varlen:
        raise ValueError(
            f"packing 'varlen' needs a GPU, sixteen bits and torch 2.10, got {dtype} on {x.device} and torch "
            f"{torch.__version__}; use 'auto'"
        )
    return "varlen" if varlen else "jagged" if x.is_cuda else "padded"


@register_notrace_function
def pack_tokens(x: Tensor, layout: Layout, form: str, training: bool, spare: float) -> tuple[Tensor, Packing]:
    """Gather the tokens that are to go through a transformer.

    In training with a gate that learns, all T tokens may go, those that are not active with a gate of 0, so that it
    learns from what it did not choose. They are trimmed to the number that is active in the fullest image, and a share
    of what is beyond, rounded up to one of few lengths: images get tokens that are not active in these places, at
    random, and the gradients of their gates are scaled up to what all of them would give in the mean. Compilers, which
    want shapes that stay, trim nothing.

    Otherwise only active tokens go. Where images of a batch differ in their number, ``form`` says how they share it;
    where only shapes are recorded, as for export, all tokens go, under a mask.

    Args:
        x: ``[B, T, C]``.
        layout: what they are.
        form: one of ``FORMS``.
        training: whether the model is in training.
        spare: share of the tokens beyond the fullest image that training keeps, 0 to 1; 1 trims nothing.

    Returns:
        Rows ``[B, L, C]`` or ``[1, M, C]``, and what says where they are from.

    Raises:
        ValueError: if the form cannot run on these tensors.
    """
    total, active = x.shape[1], layout.active()
    if layout.choice.straight is not None:
        return _pack_learning(x, layout, active, spare)
    recorded = x.is_meta or is_exporting()
    if form == "dense" or (recorded and layout.length is None):
        return _pack_batch(x, layout, active, total)
    if layout.length is not None:
        return _pack_batch(x, layout, active, layout.length, full=True)
    if x.shape[0] == 0:
        return _pack_batch(x, layout, active, total)
    counts = active.sum(1)
    # The one time that the host waits for the device.
    shortest, longest, num_rows = torch.stack([*counts.aminmax(), counts.sum()]).tolist()
    if shortest == longest:
        return _pack_batch(x, layout, active, longest, full=True)
    # Stochastic depth drops rows of the first axis, which are to be images.
    form = "padded" if training else resolve_form(form, x)
    if form == "padded":
        return _pack_batch(x, layout, active, longest)
    return _pack_sequence(x, layout, active, num_rows, form)


def round_length(length: int, total: int) -> int:
    """Round a number of tokens up to one of about 32, of which ``total`` is the largest."""
    step = max(1, total // LENGTHS)
    return min(total, -(-length // step) * step)


def _pack_learning(x: Tensor, layout: Layout, active: Tensor, spare: float) -> tuple[Tensor, Packing]:
    """Gather active tokens, and others by which the gate learns."""
    straight, total = layout.choice.straight, x.shape[1]
    assert straight is not None
    gates = layout.by_token(1.0, straight, 1 - straight)
    if spare >= 1 or x.is_meta or torch.compiler.is_compiling() or x.shape[0] == 0:
        length = total
    else:
        longest = layout.length
        if longest is None:
            longest = int(active.sum(1).amax())
        length = round_length(longest + ceil(spare * (total - longest)), total)
    rank = (~active).to(gates.dtype)
    rows, packing = _pack_batch(x, layout, active, length, rank=rank + rank * torch.rand_like(rank))
    if length < total:
        left = (~active).sum(1, keepdim=True)
        there = (~active & (packing.place >= 0)).sum(1, keepdim=True)
        # Those that stay speak for those that do not.
        scale = torch.where(active, 1.0, left / there.clamp(min=1))
        gates = gates.detach() + scale * (gates - gates.detach())
        gates = gates.view(-1)[packing.tokens]
    return rows, packing._replace(gates=gates.reshape(-1))


def _pack_batch(
    x: Tensor, layout: Layout, active: Tensor, length: int, full: bool = False, rank: Optional[Tensor] = None
) -> tuple[Tensor, Packing]:
    """Gather so many tokens of each image, active ones first and in order; others, the lowest of a rank, fill up."""
    batch, total, width = x.shape
    starts = total * torch.arange(batch, device=x.device)[:, None]
    if length == total:
        place = starts + torch.arange(total, device=x.device)
        return x, Packing(layout, "padded", place.view(-1), place, None if full else active.reshape(-1))
    order = torch.argsort((~active).to(torch.uint8) if rank is None else rank, dim=1, stable=True)[:, :length]
    numbers = torch.arange(batch * length, device=x.device).view(batch, length)
    place = torch.full_like(active, -1, dtype=torch.long).scatter(1, order, numbers)
    index = (starts + order).view(-1)
    rows = gather_tokens(x, index, place).view(batch, length, width)
    return rows, Packing(layout, "padded", index, place, None if full else active.gather(1, order).view(-1))


def _pack_sequence(x: Tensor, layout: Layout, active: Tensor, num_rows: int, form: str) -> tuple[Tensor, Packing]:
    """Gather the active tokens of all images, one image after the other."""
    flat = active.view(-1)
    place = flat.cumsum(0) - 1
    tokens = torch.arange(len(flat), device=x.device)
    # Tokens left out write behind the last row, which is cut off.
    index = tokens.new_empty(num_rows + 1).scatter(0, torch.where(flat, place, num_rows), tokens)[:-1]
    place = torch.where(flat, place, -1).view(active.shape)
    ends = active.sum(1).cumsum(0, dtype=torch.int32)
    offsets = torch.cat([ends.new_zeros(1), ends])
    mask = block_diagonal_mask(offsets, num_rows) if form == "flex" else None
    rows = gather_tokens(x, index, place).unsqueeze(0)
    return rows, Packing(layout, form, index, place, offsets=offsets, block_mask=mask)


def block_diagonal_mask(offsets: Tensor, num_rows: int) -> Any:
    """Make FlexAttention's mask for images that lie one after the other, without a matrix of all their rows.

    Args:
        offsets: ``[B + 1]``, where each image starts, and the number of rows.
        num_rows: M.
    """
    from torch.nn.attention.flex_attention import BlockMask

    rows = torch.arange(num_rows, device=offsets.device)
    image = torch.searchsorted(offsets, rows, right=True) - 1
    blocks = ceil(num_rows / FLEX_BLOCK)
    firsts = FLEX_BLOCK * torch.arange(blocks, device=offsets.device)
    lasts = (firsts + FLEX_BLOCK - 1).clamp(max=num_rows - 1)
    begin = offsets[image[firsts]] // FLEX_BLOCK
    end = (offsets[image[lasts] + 1] - 1) // FLEX_BLOCK
    indices = begin[:, None] + torch.arange(blocks, device=offsets.device, dtype=torch.int32)
    # Beyond their number they are of no account, but have to be blocks.
    indices = indices.remainder(blocks).to(torch.int32)
    return BlockMask.from_kv_blocks(
        (end - begin + 1).to(torch.int32)[None, None],
        indices[None, None],
        BLOCK_SIZE=FLEX_BLOCK,
        mask_mod=lambda b, h, q, k: image[q] == image[k],
        seq_lengths=(num_rows, num_rows),
    )


@register_notrace_function
def prefix_rows(x: Tensor, packing: Packing) -> Tensor:
    """Return the prefix tokens ``[B, P, C]`` of packed rows."""
    num_prefix = packing.layout.num_prefix
    if packing.offsets is None:
        # They come first, always active.
        return x[:, :num_prefix]
    firsts = packing.offsets[:-1, None] + torch.arange(num_prefix, device=x.device)
    return x[0].index_select(0, firsts.view(-1)).view(-1, num_prefix, x.shape[-1])


class Cells(NamedTuple):
    """Where packed rows go in the grid of fine cells.

    Attributes:
        source: ``[B, P + h * w]``, the row of each prefix token and of each cell of the image.
        cells: ``[M, K]``, the cells of each row, image * (P + h * w) + P + cell, negative for those it does not have.
    """

    source: Tensor
    cells: Tensor


@register_notrace_function
def find_cells(packing: Packing) -> tuple[Cells, Optional[Cells]]:
    """Find the cells of the active rows, and in training, by the gate, those that the others would cover."""
    choice, num_prefix, ratio, (height, width) = packing.layout
    device = packing.place.device
    rows, columns = choice.grid[0] * ratio, choice.grid[1] * ratio
    regions = choice.grid[0] * choice.grid[1]
    grid = torch.arange(rows * columns, device=device).view(rows, columns)
    shown = grid[:height, :width].reshape(-1)
    region = regions_of_cells(choice.grid, ratio, device)[shown]
    coarse = choice.coarse[:, region]
    by_coarse = packing.place[:, num_prefix + region]
    by_fine = packing.place[:, num_prefix + regions + shown]
    prefix = packing.place[:, :num_prefix]
    table = _cell_table(packing.layout, device)
    token = packing.tokens % packing.place.shape[1]
    image = torch.div(packing.tokens, packing.place.shape[1], rounding_mode="floor")
    cells = table[token]
    cells = torch.where(cells < 0, -1, cells + (image * (num_prefix + height * width))[:, None])
    source = torch.cat([prefix, torch.where(coarse, by_coarse, by_fine)], dim=1)
    if packing.active is None:
        return Cells(source, cells), None
    active = packing.active[:, None]
    found = Cells(source, torch.where(active, cells, -1))
    if packing.gates is None:
        return found, None
    others = torch.cat([torch.full_like(prefix, -1), torch.where(coarse, by_fine, by_coarse)], dim=1)
    return found, Cells(others, torch.where(active, -1, cells))


def _cell_table(layout: Layout, device: torch.device) -> Tensor:
    """Return the places of each token in prefix tokens and cells of one image, ``[T, K]``, negative for none."""
    (_, num_prefix, ratio, size), grid = layout, layout.grid
    rows, columns = (torch.arange(side * ratio, device=device) for side in grid)
    inside = (rows < size[0])[:, None] & (columns < size[1])
    cells = torch.where(inside, num_prefix + rows[:, None] * size[1] + columns, -1)
    coarse = cells.view(grid[0], ratio, grid[1], ratio).transpose(1, 2).reshape(-1, ratio**2)
    single = torch.cat([torch.arange(num_prefix, device=device), cells.view(-1)])[:, None]
    single = torch.cat([single, single.new_full((len(single), ratio**2 - 1), -1)], dim=1)
    return torch.cat([single[:num_prefix], coarse, single[num_prefix:]])


@register_notrace_function
def unpack_tokens(x: Tensor, packing: Packing, found: Sequence[Optional[Cells]]) -> Tensor:
    """Put packed rows back into the grid of fine cells; a coarse token is copied to all it covers.

    By the gate's gradient, a cell is ``m * coarse + (1 - m) * fine``.

    Args:
        x: rows of :func:`pack_tokens`.
        packing: where they are from.
        found: what :func:`find_cells` found.

    Returns:
        ``[B, P + h * w, C]``, prefix tokens first.
    """
    rows = x.reshape(-1, x.shape[-1])
    chosen, others = found
    assert chosen is not None
    if packing.gates is None or others is None:
        return scatter_tokens(rows, *chosen)
    rows = rows * packing.gates.to(rows.dtype)[:, None]
    return scatter_tokens(rows, *chosen) + scatter_tokens(rows, *others)
