"""Additive attention gates on skip connections, in two and three dimensions.

Papers: O. Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", https://arxiv.org/abs/1804.03999
(MIDL 2018); J. Schlemper et al., "Attention-Gated Networks for Improving Ultrasound Scan Plane Detection",
https://arxiv.org/abs/1804.05338 (MIDL 2018).

With the skip feature ``x`` and the gating signal ``g``::

    q = psi relu(W_x x + up(W_g g)) + b_psi
    a = up(sigmoid(q))                          one map for all channels
    y = T(a x)

Two families go by this name, both here: :class:`GridAttentionGate`, the papers', and :class:`SameGridAttentionGate`,
which most two-dimensional implementations have.
"""

from collections import OrderedDict
from typing import Any, Optional, Union

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from gatedvision.layers._autocast import autocast_dtype, to_autocast_dtype
from gatedvision.layers._exporting import is_exporting
from gatedvision.layers._hooks import has_hooks
from gatedvision.layers.conv_batch_norm import ConvBatchNorm, Sizes, make_conv, per_axis
from gatedvision.layers.resize_linear import resize_linear
from gatedvision_kernels import additive_gate
from gatedvision_kernels._dispatch import use_triton

WEIGHTINGS = ("sigmoid", "softmax", "mean", "mean_flow", "range")


def weigh_positions(scores: Tensor, weighting: str) -> Tensor:
    """Turn scores into attention coefficients, each sample and channel on its own.

    ==============  =========================================  ===================================================
    ``weighting``   formula over positions                     published mode
    ==============  =========================================  ===================================================
    ``sigmoid``     ``sigmoid(q)``                             ``concatenation``, ``concatenation_sigmoid``
    ``softmax``     ``softmax(q)``                             ``concatenation_residual``, ``concatenation_softmax``
    ``mean``        ``q / sum(q)``                             ``concatenation_mean``
    ``mean_flow``   ``(q - min) / sum(q - min)``               ``concatenation_mean_flow``
    ``range``       ``(q - min) / (max - min)``                ``concatenation_range_normalise``
    ==============  =========================================  ===================================================

    The last three are published without an epsilon and are the published formula here, too, wherever its denominator
    is not zero. Where it is, as on a constant map and the only position of a small one, published code returns NaN;
    here such a map is uniform: weights that sum to 1 (``mean``, ``mean_flow``), or all 1 (``range``), with a gradient
    of zero. 16-bit scores are computed in float32.

    Args:
        scores: ``[B, C, *S]``.
        weighting: a name of the table.

    Returns:
        ``[B, C, *S]`` in the dtype of ``scores``.
    """
    if weighting == "sigmoid":
        return torch.sigmoid(scores)
    q = scores.flatten(2)
    if q.dtype == torch.float16 or q.dtype == torch.bfloat16:
        q = q.float()
    if weighting == "softmax":
        weights = torch.softmax(q, 2)
    else:
        uniform = 1.0 / q.shape[2]
        if weighting != "mean":
            q = q - q.amin(2, keepdim=True)
        total = q.sum(2, keepdim=True)
        if weighting == "range":
            uniform = 1.0
            total = q.amax(2, keepdim=True)
        empty = total == 0
        weights = torch.where(empty, uniform, q / torch.where(empty, 1.0, total))
    return weights.to(scores.dtype).view(scores.shape)


def takes_kernel(x: Tensor, gating: Tensor) -> bool:
    """Tell whether a kernel is to be the gate: on GPUs, but not in programs that are recorded to run elsewhere.

    In 16 bits, also by autocast: in float32, where its products are exact, convolutions are faster (kernels/NOTES.md).
    """
    if is_exporting() or torch.jit.is_tracing() or x.dtype != gating.dtype or not use_triton("auto", x, gating):
        return False
    return autocast_dtype(x).itemsize == 2


class AttentionGate(nn.Module):
    """What both families share: projections made by the subclass, and the gate's computation.

    Args:
        dim: channels of the skip feature.
        gating_dim: channels of the gating signal.
        spatial_dims: 2 for images, 3 for volumes.
        proj_x: maps the skip feature to the grid and the channels of the attention.
        proj_gating: maps the gating signal to these channels.
        psi: maps them to one score.
        proj_out: output transform.
        softplus: softplus instead of ReLU.
        weighting: as in :func:`weigh_positions`.
        align_corners: of linear resampling.

    Raises:
        ValueError: for an unknown weighting.
    """

    def __init__(
        self,
        dim: int,
        gating_dim: int,
        spatial_dims: int,
        proj_x: nn.Module,
        proj_gating: nn.Module,
        psi: nn.Module,
        proj_out: nn.Module,
        softplus: bool = False,
        weighting: str = "sigmoid",
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)}, got {weighting!r}")
        self.dim = dim
        self.gating_dim = gating_dim
        self.spatial_dims = spatial_dims
        self.proj_x = proj_x
        self.proj_gating = proj_gating
        self.psi = psi
        self.proj_out = proj_out
        self.softplus = softplus
        self.weighting = weighting
        self.align_corners = align_corners

    def attend(self, x: Tensor, gating: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gated feature and the attention map: all that a gate computes, in one place."""
        query = self.proj_x(x)
        hidden = query + resize_linear(self.proj_gating(gating), query, self.align_corners)
        hidden = F.softplus(hidden) if self.softplus else F.relu(hidden, inplace=True)
        attention = weigh_positions(self.psi(hidden), self.weighting)
        attention = resize_linear(attention, x, self.align_corners)
        return self.proj_out(x * attention), attention

    @torch.jit.ignore()
    def forward(
        self, *, x: Tensor, gating: Tensor, return_attention: bool = False
    ) -> Union[Tensor, tuple[Tensor, Tensor]]:
        """Gate a skip feature; arguments go by name only, since published gates order them either way.

        Args:
            x: skip feature ``[B, dim, *S]``.
            gating: gating signal ``[B, gating_dim, *G]``.
            return_attention: return the attention map, too.

        Returns:
            ``[B, dim, *S]``, and with ``return_attention`` the map ``[B, 1, *S]``.

        Raises:
            ValueError: if a shape does not fit.
        """
        for name, value, dim in (("x", x, self.dim), ("gating", gating, self.gating_dim)):
            if value.ndim != 2 + self.spatial_dims or value.shape[1] != dim:
                axes = "D, H, W" if self.spatial_dims == 3 else "H, W"
                raise ValueError(f"{name} must be [B, {dim}, {axes}], got {tuple(value.shape)}")
        self._check_grids(x, gating)
        gated, attention = self.attend(x, gating)
        return (gated, attention) if return_attention else gated

    def _check_grids(self, x: Tensor, gating: Tensor) -> None:
        """Raise if the two grids do not fit this gate."""


@register_notrace_module
class GridAttentionGate(AttentionGate):
    """The papers' gate: attention on a coarser grid, to which the gating signal is resampled.

    ``W_x`` is a convolution whose kernel is its stride (``subsample``), without bias; ``W_g`` a 1x1 convolution with
    bias; the output transform a 1x1 convolution and a batch norm. The classifier's gate differs
    (``strided_gating``, ``transform=False``).

    Args:
        dim: channels of the skip feature.
        gating_dim: channels of the gating signal, on any grid.
        hidden_dim: channels of the attention, ``dim // 2`` by default; published networks have ``dim``.
        subsample: pixels of the skip feature to one of the attention, for all axes or each.
        spatial_dims: 2 for images, 3 for volumes.
        softplus: softplus instead of ReLU (published mode ``concatenation_debug``).
        weighting: as in :func:`weigh_positions`.
        strided_gating: let ``W_g`` have the kernel and stride of ``W_x``, and no bias, as the classifier's has.
        transform: transform the gated feature; else return it as it is.
        psi_bias: initial bias of the score, None to draw it; large values let everything pass at the start.
        align_corners: let corner pixels coincide in linear resampling, as the PyTorch of the published code did.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        dim: int,
        gating_dim: int,
        hidden_dim: Optional[int] = None,
        subsample: Sizes = 2,
        spatial_dims: int = 2,
        softplus: bool = False,
        weighting: str = "sigmoid",
        strided_gating: bool = False,
        transform: bool = True,
        psi_bias: Optional[float] = None,
        align_corners: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        hidden_dim = max(dim // 2, 1) if hidden_dim is None else hidden_dim
        step = per_axis(subsample, spatial_dims)
        strided = {"stride": step, "bias": False, **dd}
        proj_x = make_conv(dim, hidden_dim, step, spatial_dims, **strided)
        if strided_gating:
            proj_gating = make_conv(gating_dim, hidden_dim, step, spatial_dims, **strided)
        else:
            proj_gating = make_conv(gating_dim, hidden_dim, 1, spatial_dims, **dd)
        super().__init__(
            dim,
            gating_dim,
            spatial_dims,
            proj_x=nn.Sequential(OrderedDict(conv=proj_x)),
            proj_gating=nn.Sequential(OrderedDict(conv=proj_gating)),
            psi=nn.Sequential(OrderedDict(conv=make_conv(hidden_dim, 1, 1, spatial_dims, **dd))),
            proj_out=ConvBatchNorm(dim, dim, 1, 1, spatial_dims, relu=False, **dd) if transform else nn.Identity(),
            softplus=softplus,
            weighting=weighting,
            align_corners=align_corners,
        )
        self.subsample = step
        self.strided_gating = strided_gating
        self.psi_bias = psi_bias
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the bias of the score; parts draw their own parameters."""
        if self.psi_bias is not None:
            nn.init.constant_(self.psi.get_parameter("conv.bias"), self.psi_bias)

    def _check_grids(self, x: Tensor, gating: Tensor) -> None:
        for name, value in (("x", x), *((("gating", gating),) if self.strided_gating else ())):
            if any(size < step for size, step in zip(value.shape[2:], self.subsample, strict=True)):
                raise ValueError(
                    f"{name} {tuple(value.shape)} is smaller than subsample {self.subsample}; pad it or sample less"
                )


@register_notrace_module
class SameGridAttentionGate(AttentionGate):
    """The popular gate: both signals on one grid, batch norms behind all projections, no output transform.

    The gating signal is the upsampled feature of the decoder. The score has a batch norm of a single channel, whose
    statistics in training are those of one map: with a batch of one image they are noisy, and with one position only
    they do not exist, which PyTorch refuses.

    On a GPU in 16 bits, with batch norms in evaluation, all of it is one kernel
    (:func:`gatedvision_kernels.additive_gate`) with the norms folded into its weights, unless one of the parts has
    hooks, which want it called. Under autocast both results are of its dtype.

    Args:
        dim: channels of the skip feature.
        gating_dim: channels of the gating signal.
        hidden_dim: channels of the attention, ``dim // 2`` by default.
        spatial_dims: 2 for images, 3 for volumes.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        dim: int,
        gating_dim: int,
        hidden_dim: Optional[int] = None,
        spatial_dims: int = 2,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        hidden_dim = max(dim // 2, 1) if hidden_dim is None else hidden_dim
        super().__init__(
            dim,
            gating_dim,
            spatial_dims,
            proj_x=ConvBatchNorm(dim, hidden_dim, 1, 1, spatial_dims, relu=False, **dd),
            proj_gating=ConvBatchNorm(gating_dim, hidden_dim, 1, 1, spatial_dims, relu=False, **dd),
            psi=ConvBatchNorm(hidden_dim, 1, 1, 1, spatial_dims, relu=False, **dd),
            proj_out=nn.Identity(),
        )

    def attend(self, x: Tensor, gating: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gated feature and the attention map, by one kernel where that is possible."""
        layers: Any = (self.proj_x, self.proj_gating, self.psi)
        folded: list[Any] = [None]
        if takes_kernel(x, gating) and not any(has_hooks(layer) for layer in layers):
            folded = [layer.fold() for layer in layers]
        if None in folded:
            return super().attend(x, gating)
        (weight_x, bias_x), (weight_gating, bias_gating), (psi, psi_bias) = folded
        weights = (weight_x.flatten(1), weight_gating.flatten(1), bias_x + bias_gating, psi.flatten(), psi_bias)
        gated, attention = additive_gate(to_autocast_dtype(x), to_autocast_dtype(gating), *weights)
        return self.proj_out(gated), attention

    def _check_grids(self, x: Tensor, gating: Tensor) -> None:
        if x.shape[2:] != gating.shape[2:]:
            raise ValueError(
                f"x {tuple(x.shape)} and gating {tuple(gating.shape)} must have one grid; resize gating first, or use "
                "GridAttentionGate"
            )
