"""Linear layers on a CPU."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Below these the detour costs what it saves (NOTES.md, "CPU, beside plain PyTorch").
MIN_ROWS = 128
MIN_PRODUCTS = 1 << 24
# For each number of filters oneDNN prepares anew, a millisecond, and keeps it, some megabytes.
ROWS_AT_ONCE = 32


def apply_linear(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """Apply a linear layer as ``F.linear`` does, a large one in float32 on a CPU as a convolution of one pixel.

    PyTorch leaves such convolutions to oneDNN, which uses AVX-512 wherever there is some, and linear layers to MKL,
    which does so on Intel's processors only: on others it takes twice the time.

    Args:
        x: ``[..., in]``.
        weight: ``[out, in]``.
        bias: ``[out]`` or None.

    Returns:
        ``[..., out]``.
    """
    if not torch.jit.is_scripting():
        if is_large_on_cpu(x, weight):
            pixels = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
            y = F.conv2d(pixels, weight[:, :, None, None], bias)
            return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))
    return F.linear(x, weight, bias)


def apply_transposed_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply a linear layer whose weight lies the other way round, a large one as :func:`apply_linear` does.

    There the weight is the image, of ``out`` pixels, and the rows are the filters, so that neither has to be turned.

    Args:
        x: ``[R, in]``.
        weight: ``[in, out]``.
        bias: ``[out]``.

    Returns:
        ``[R, out]``.
    """
    if is_large_on_cpu(x, weight.T):
        filters = F.pad(x, [0, 0, 0, -len(x) % ROWS_AT_ONCE])[:, :, None, None]
        return F.conv2d(weight[None, :, None], filters)[0, : len(x), 0] + bias
    return torch.addmm(bias, x, weight)


def is_large_on_cpu(x: Tensor, weight: Tensor) -> bool:
    """Tell whether a linear layer is one that :func:`apply_linear` computes by a convolution.

    Not if it is recorded or compiled, as compilers choose by themselves, nor under autocast, nor with one thread, where
    PyTorch leaves these convolutions to MKL as well.
    """
    # Exact types: others, as of torch.fx or nested tensors, have their own linear layer.
    if type(x) is not Tensor or type(weight) not in (Tensor, nn.Parameter) or torch.compiler.is_compiling():
        return False
    if not x.is_cpu or x.dtype != torch.float32 or weight.dtype != torch.float32 or x.is_nested:
        return False
    rows = x.numel() // max(x.shape[-1], 1)
    if rows < MIN_ROWS or rows * weight.numel() < MIN_PRODUCTS or x.shape[-1] != weight.shape[-1]:
        return False
    if torch.get_num_threads() == 1 or torch.is_autocast_enabled("cpu") or torch.jit.is_tracing():
        return False
    return torch.backends.mkldnn.is_available()
