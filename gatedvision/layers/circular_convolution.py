"""Circular convolution of small maps as matrix products: what a filter of the spectrum does, without the spectrum.

Shapes: B batch, H and W sides of the map, C channels, N = H * W pixels.
"""

from typing import Any

import torch
from torch import Tensor

from gatedvision.layers._autocast import without_autocast


class _CircularConvolution(torch.autograd.Function):
    """Keeps maps and kernels, and makes the matrices, which are larger, again for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x, kernel)
        return _as_maps(_convolve(_by_channel(x), kernel, _offsets(kernel)), kernel)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (grad,), (x, kernel) = grads, ctx.saved_tensors
        with without_autocast(x):
            offsets, grad = _offsets(kernel), _by_channel(grad)
            # Of each element the one of the opposite distance: the kernel turned round.
            opposite = offsets[:, 0]
            grad_x = _convolve(grad, kernel.flatten(1)[:, opposite].view_as(kernel), offsets)
            dtype = x.dtype if x.dtype == torch.bfloat16 else kernel.dtype
            # [C, N, N]: what pixel p had to do with pixel q.
            products = _by_channel(x).to(dtype).transpose(1, 2) @ grad.to(dtype)
            # [N, N]: for every distance and pixel p, where p and the q at that distance stand among them.
            pairs = offsets[opposite] + len(offsets) * torch.arange(len(offsets), device=x.device)
            grad_kernel = products.flatten(1)[:, pairs].sum(-1, dtype=kernel.dtype)
            return _as_maps(grad_x, kernel).to(x.dtype), grad_kernel.view_as(kernel)


def circular_convolution(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve each channel with a kernel of the map's own size, the map continued periodically.

    ``y[b, i, j, c] = sum over k, l of kernel[c, k, l] x[b, (i - k) mod H, (j - l) mod W, c]``. For each channel that is
    a product with a matrix of N x N elements: N is to be a few hundred at most. Maps in bfloat16 are multiplied by the
    kernel in two parts of that type, which hold 16 of its 24 binary digits, and summed in float32; others in the type
    of the kernel.

    Args:
        x: maps ``[B, H, W, C]``.
        kernel: ``[C, H, W]`` in float32 or wider.

    Returns:
        ``[B, H, W, C]`` in the dtype of ``x``.
    """
    with without_autocast(x):
        y: Any = _CircularConvolution.apply(x, kernel)
    # Not within the function: torch 2.11 compiles one that ends in a cast of nothing to gradients of zero.
    return y.to(x.dtype)


def _convolve(rows: Tensor, kernel: Tensor, offsets: Tensor) -> Tensor:
    """Convolve ``[C, B, N]``."""
    # [C, N, N]: from pixel p, along the first of both, to pixel q.
    matrices = kernel.flatten(1)[:, offsets]
    if rows.dtype == torch.bfloat16:
        high = matrices.to(rows.dtype)
        matrices = torch.cat([high, (matrices - high).to(rows.dtype)], dim=1)
        rows = torch.cat([rows, rows], dim=2)
    return rows.to(matrices.dtype) @ matrices


def _by_channel(x: Tensor) -> Tensor:
    """Bring ``[B, H, W, C]`` to ``[C, B, N]``."""
    return x.permute(3, 0, 1, 2).flatten(2)


def _as_maps(rows: Tensor, kernel: Tensor) -> Tensor:
    """Bring ``[C, B, N]`` back to ``[B, H, W, C]``."""
    return rows.unflatten(2, kernel.shape[1:]).permute(1, 2, 3, 0)


def _offsets(kernel: Tensor) -> Tensor:
    """Return the element of the kernel that leads from pixel p to pixel q, both row by row: ``[N, N]``."""
    height, width = kernel.shape[1:]
    rows, columns = (torch.arange(side, device=kernel.device) for side in (height, width))
    down = (rows - rows[:, None]) % height
    right = (columns - columns[:, None]) % width
    return (width * down[:, None, :, None] + right[None, :, None, :]).flatten(2).flatten(0, 1)
