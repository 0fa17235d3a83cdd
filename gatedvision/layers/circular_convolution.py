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
        return _convolve(x, kernel)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (grad,), (x, kernel) = grads, ctx.saved_tensors
        with without_autocast(x):
            height, width = kernel.shape[1:]
            offsets = _offsets(height, width, x.device)
            # Of each element the one of the opposite distance: the kernel turned round.
            opposite = offsets[:, 0]
            grad_x = _convolve(grad, kernel.flatten(1)[:, opposite].view_as(kernel)).to(x.dtype)
            dtype = x.dtype if x.dtype == torch.bfloat16 else kernel.dtype
            # [C, N, N]: what pixel p had to do with pixel q.
            products = _by_channel(x).to(dtype).transpose(1, 2) @ _by_channel(grad).to(dtype)
            # [N, N]: for every distance and pixel p, where p and the q at that distance stand among them.
            pairs = offsets[opposite] + height * width * torch.arange(height * width, device=x.device)
            grad_kernel = products.flatten(1)[:, pairs].sum(-1, dtype=kernel.dtype)
            return grad_x, grad_kernel.view_as(kernel)


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


def _convolve(x: Tensor, kernel: Tensor) -> Tensor:
    height, width = kernel.shape[1:]
    # [C, N, N]: from pixel p, along the first of both, to pixel q.
    matrices = kernel.flatten(1)[:, _offsets(height, width, x.device)]
    rows = _by_channel(x)
    if x.dtype == torch.bfloat16:
        high = matrices.to(x.dtype)
        matrices = torch.cat([high, (matrices - high).to(x.dtype)], dim=1)
        rows = torch.cat([rows, rows], dim=2)
    y = rows.to(matrices.dtype) @ matrices
    return y.unflatten(2, (height, width)).permute(1, 2, 3, 0)


def _by_channel(x: Tensor) -> Tensor:
    """Bring ``[B, H, W, C]`` to ``[C, B, N]``."""
    return x.permute(3, 0, 1, 2).flatten(2)


def _offsets(height: int, width: int, device: torch.device) -> Tensor:
    """Return the element of the kernel that leads from pixel p to pixel q, both row by row: ``[N, N]``."""
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    down = (rows - rows[:, None]) % height
    right = (columns - columns[:, None]) % width
    return (width * down[:, None, :, None] + right[None, :, None, :]).flatten(2).flatten(0, 1)
