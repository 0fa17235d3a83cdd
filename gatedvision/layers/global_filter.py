"""The global-local filter of HorNet: half of the channels filtered among neighbours, half over the whole map.

Shapes: B batch, H and W sides of the map, C channels, F = W // 2 + 1 frequencies along the width (those of
negative sign are conjugates in a real map).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor, nn

from gatedvision.layers._autocast import without_autocast
from gatedvision.layers._exporting import is_exporting
from gatedvision.layers._recompute import recompute_if_compiled
from gatedvision.layers.depthwise_conv import DepthwiseConv
from gatedvision.layers.layer_norm import LayerNorm
from gatedvision_kernels import filter_spectrum as filter_by_operator
from gatedvision_kernels import filter_spectrum_reference


def resize_spectrum(weight: Tensor, height: int, frequencies: int) -> Tensor:
    """Resize stored filters: bilinear, corners aligned, real and imaginary parts apart.

    Args:
        weight: ``[C, h, f, 2]``, real and imaginary parts last.
        height: rows, H.
        frequencies: columns, F.

    Returns:
        ``[C, H, F, 2]`` in float32 or wider; the stored filters themselves if they fit.
    """
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    if torch.jit.is_scripting():
        comparable = True
    else:
        # The sides of an exported program may be open, and comparing them would settle them.
        comparable = not is_exporting()
    if comparable and weight.shape[1] == height and weight.shape[2] == frequencies:
        return weight
    planes = weight.permute(3, 0, 1, 2)
    planes = F.interpolate(planes, size=[height, frequencies], mode="bilinear", align_corners=True)
    return planes.permute(1, 2, 3, 0)


def filter_spectrum(x: Tensor, weight: Tensor, form: str = "auto") -> Tensor:
    """Multiply each channel's two-dimensional spectrum by a complex filter of its own.

    Both transforms are orthonormal. The inverse goes over the height first, and the one over the width takes
    its frequency 0, and the highest of an even width, as real, whatever the filter has made of them.

    Args:
        x: maps ``[B, H, W, C]``.
        weight: filters ``[C, h, f, 2]``, real and imaginary parts last, resized to ``[C, H, F, 2]``.
        form: ``"fft"``; ``"matrix"``, the same with Fourier transforms as matrix products, which needs no
            complex numbers; ``"auto"`` takes ``"matrix"`` for what ``torch.export`` records and for ONNX, and
            otherwise the operator, whose kernels serve maps of 16 bits and up to 256 pixels on a GPU, and which is
            ``"fft"`` for all others.

    Returns:
        ``[B, H, W, C]`` in the dtype of ``x``, computed in float32 or wider; the kernels sum in float32 and round
        what they multiply to the dtype of ``x``.

    Raises:
        ValueError: for an unknown form.
    """
    if form not in ("auto", "fft", "matrix"):
        raise ValueError(f"form must be 'auto', 'fft' or 'matrix', got {form!r}")
    weight = resize_spectrum(weight, x.shape[1], x.shape[2] // 2 + 1)
    if form == "auto" and (is_exporting() or torch.onnx.is_in_onnx_export()):
        form = "matrix"
    if form != "matrix":
        return filter_by_operator(x, weight, backend="auto" if form == "auto" else "reference")
    # Products of matrices are what autocast rounds to sixteen bits.
    with without_autocast(x):
        return _filter_by_matrices(x, weight).to(x.dtype)


# torch.fx keeps functions whole only if their names begin with a letter.
@register_notrace_function
def apply_filter_spectrum(x: Tensor, weight: Tensor) -> Tensor:
    """Call the operator: a leaf for torch.fx, plain torch in TorchScript."""
    if torch.jit.is_scripting():
        return filter_spectrum_reference(x, resize_spectrum(weight, x.shape[1], x.shape[2] // 2 + 1))
    else:
        return filter_spectrum(x, weight)


def _filter_by_matrices(x: Tensor, weight: Tensor) -> Tensor:
    """Filter by weights of the map's size; returns float32 or wider."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    weight = weight.to(x.dtype)
    height, width = x.shape[1], x.shape[2]
    frequencies = width // 2 + 1
    filter_real, filter_imag = weight.permute(3, 1, 2, 0).unsqueeze(3).unbind()  # [H, F, 1, C]

    # Over the width, a real map gives a complex one; over the height, complex numbers are multiplied.
    cos, sin = _waves(frequencies, width, width, x)
    x = x.permute(2, 1, 0, 3).contiguous()  # [W, H, B, C]
    real, imag = _multiply(cos, x).transpose(0, 1).contiguous(), -_multiply(sin, x).transpose(0, 1).contiguous()
    cos, sin = _waves(height, height, height, x)
    real, imag = _multiply(cos, real) + _multiply(sin, imag), _multiply(cos, imag) - _multiply(sin, real)
    real, imag = real * filter_real - imag * filter_imag, real * filter_imag + imag * filter_real  # [H, F, B, C]
    real, imag = _multiply(cos, real) - _multiply(sin, imag), _multiply(cos, imag) + _multiply(sin, real)
    real, imag = real.transpose(0, 1).contiguous(), imag.transpose(0, 1).contiguous()

    # A frequency stands for its conjugate, too, unless it is its own: 0 and the highest of an even width.
    frequency = torch.arange(frequencies, device=x.device)
    count = torch.where((frequency == 0) | (2 * frequency == width), 1, 2).to(x.dtype)
    cos, sin = _waves(width, frequencies, width, x)
    y = _multiply(cos * count, real) - _multiply(sin * count, imag)
    return y.permute(2, 1, 0, 3) / (height * width)


def _multiply(matrix: Tensor, x: Tensor) -> Tensor:
    """Multiply a matrix by the first axis of a contiguous ``x``, all other axes taken together."""
    return (matrix @ x.flatten(1)).view(matrix.shape[0], x.shape[1], x.shape[2], x.shape[3])


def _waves(rows: int, columns: int, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine ``[rows, columns]`` of row times column turns over the length."""
    turns = torch.outer(torch.arange(rows, device=like.device), torch.arange(columns, device=like.device))
    # Whole turns go before rounding: large angles have few digits left of their fraction. The divisor is a tensor
    # because the ONNX exporter wants one where sides are open.
    rest = turns % torch.full((), length, device=like.device)
    angles = rest.to(like.dtype) * (2 * math.pi) / length
    return angles.cos(), angles.sin()


class GlobalLocalFilter(nn.Module):
    """Filter one half of the channels by a 3x3 convolution, the other by its spectrum (HorNet, arXiv:2207.14284).

    The halves are interleaved afterwards, so that every second channel has seen the whole map. Layer norms
    (eps 1e-6) stand before and after. Autocast leaves the spectral half alone: its maps keep the dtype in which they
    come, and are transformed in float32 or wider but for small maps of 16 bits on a GPU, whose spectra, and the cosines
    and sines of the transforms, are rounded to that dtype, with sums in float32. In compiled training everything is
    computed again in the backward pass, to save memory.

    Args:
        dim: channels, even.
        map_size: rows and columns of the maps that the stored filters ``[C / 2, H, F, 2]`` fit; for other maps
            they are resized in the forward pass.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if ``dim`` is odd or ``map_size`` not positive.
    """

    def __init__(self, dim: int, map_size: tuple[int, int], device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"dim must be even, one half for each filter, got {dim}")
        height, width = map_size
        if min(height, width) < 1:
            raise ValueError(f"map_size must be positive, got {tuple(map_size)}")
        dd = {"device": device, "dtype": dtype}
        self.norm_pre = LayerNorm(dim, **dd)
        self.conv_dw = DepthwiseConv(dim // 2, 3, bias=False, **dd)
        self.complex_weight = nn.Parameter(torch.empty(dim // 2, height, width // 2 + 1, 2, **dd))
        self.norm_post = LayerNorm(dim, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the spectral filters from a normal distribution of deviation 0.02."""
        nn.init.normal_(self.complex_weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Filter ``[B, H, W, C]``, channels last, of any size."""
        if torch.jit.is_scripting():
            return self._filter(x)
        else:
            return recompute_if_compiled(self._filter, x)

    def _filter(self, x: Tensor) -> Tensor:
        near, far = self.norm_pre(x).chunk(2, dim=-1)
        near = self.conv_dw(near)
        far = apply_filter_spectrum(far, self.complex_weight).to(near.dtype)
        return self.norm_post(torch.stack([near, far], dim=-1).flatten(-2))
