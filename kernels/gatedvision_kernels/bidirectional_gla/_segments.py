"""How sequences are cut: into segments of one program each, which walks over them in chunks.

Short sequences are one segment. Long ones are cut so that all programs together fill the GPU.
"""

from __future__ import annotations

from typing import Any

import torch

from gatedvision_kernels._operator import compiled_away
from gatedvision_kernels._rows import ceil_div, multiprocessors
from gatedvision_kernels._triton import jit, tl
from gatedvision_kernels._tuning import setting

# Tokens whose pairs are weighed by products at once. Chunks of 64 pad images of 196 tokens to 256.
CHUNK = 32
# A segment costs a state to write and two to read, as much as eight chunks.
MIN_CHUNKS = 8


def cut(rows: int, length: int, device: torch.device) -> tuple[int, int]:
    """Cut ``rows`` sequences of so many tokens: each into how many segments, of how many chunks.

    On an H200 a multiprocessor holds three programs at once. More, of shorter segments, write and read more states.
    """
    # Open sizes of programs are no numbers, and comparing them would close them.
    known = isinstance(rows, int) and isinstance(length, int)
    least: Any = min if known else torch.sym_min
    most: Any = max if known else torch.sym_max
    chunks = ceil_div(length, CHUNK)
    programs = setting("attention_programs") * multiprocessors(device)
    per_segment = least(chunks, most(MIN_CHUNKS, ceil_div(chunks * rows, programs)))
    return ceil_div(chunks, per_segment), per_segment


@jit
def locate(number, segments, per_segment, chunks, length, heads, C: tl.constexpr):
    """Find what a program works on by its number.

    Returns its row, head and segment, the place of the segment's first token among those of the batch, the chunks of
    the segment, and the tokens of the row from there on.
    """
    segment = number % segments
    row = (number // segments).to(tl.int64)
    first = segment * per_segment
    # The batch is one long sequence of tokens.
    start = row // heads * length + (first * C).to(tl.int64)
    return row, row % heads, segment, start, tl.minimum(per_segment, chunks - first), length - first * C


def launch_options(width: int, value_width: int, formats: dict[str, Any]) -> dict[str, int]:
    """Choose warps and the stages of loads in flight for a kernel that holds a state ``[width, value_width]``.

    Operands of four bytes leave no shared memory for more than one stage on the smaller chips.
    """
    narrow = formats["OPERAND"] == tl.bfloat16
    return {"num_warps": 4 if width * value_width <= 4096 else 8, "num_stages": 3 if narrow else 1}


def few_registers(formats: dict[str, Any], options: dict[str, int]) -> dict[str, int]:
    """Limit the registers, so that NVIDIA's chips run more programs on a multiprocessor: with 168, three of four warps.

    What is spilled for it belongs to strong gates, which are rare.
    """
    registers = setting("attention_registers")
    limited = formats["FLUSH"] and options["num_stages"] > 1 and options["num_warps"] == 4 and not compiled_away()
    return options | {"maxnreg": registers} if limited and registers else options
