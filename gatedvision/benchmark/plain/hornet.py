"""HorNet in plain PyTorch (arXiv:2207.14284).

Shapes: B images, a map of H rows and W columns, C channels.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedvision.layers.global_filter import GlobalLocalFilter
from gatedvision.models.hornet import HorNet
from gatedvision_kernels._linear import apply_linear


def plain_hornet(model: HorNet) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the forward pass on maps ``[B, H, W, C]`` with linear layers, and on ``[B, C, H, W]`` with convolutions.

    Args:
        model: whose parameters are used, in evaluation.
    """
    by_convolutions = partial(_run_by_convolutions, model)
    return {"linear layers, channels last": partial(_run_by_linear, model), "1x1 convolutions": by_convolutions}


def _run_by_linear(model: Any, image: Tensor) -> Tensor:
    stem = model.stem
    x = stem.conv(image.contiguous(memory_format=torch.channels_last))
    x = _norm(stem.norm, x.permute(0, 2, 3, 1))
    for stage in model.stages:
        if not isinstance(stage.downsample, nn.Identity):
            x = stage.downsample.conv(_norm(stage.downsample.norm, x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        for block in stage.blocks:
            x = torch.addcmul(x, block.scale_mixer.gamma, _mix(block.mixer, _norm(block.norm_mixer, x)))
            y = block.mlp.fc2(F.gelu(block.mlp.fc1(_norm(block.norm_mlp, x))))
            x = torch.addcmul(x, block.scale_mlp.gamma, y)
    return model.head(x.permute(0, 3, 1, 2))


def _mix(mixer: Any, x: Tensor) -> Tensor:
    y, gates = mixer.proj_in(x).split(mixer.widths, dim=-1)
    spatial = mixer.spatial
    if isinstance(spatial, GlobalLocalFilter):
        gates = _filter(spatial, gates)
    else:
        gates = _convolve(spatial, gates.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    first, *others = gates.split([mixer.widths[0], *(proj.out_features for proj in mixer.projs)], dim=-1)
    y = y * first
    for proj, gate in zip(mixer.projs, others, strict=True):
        # What scales the gate before scales the linear layer just as well.
        y = apply_linear(y, mixer.scale * proj.weight, proj.bias) * gate
    return apply_linear(y, mixer.scale * mixer.proj_out.weight, mixer.proj_out.bias)


def _filter(spatial: GlobalLocalFilter, x: Tensor) -> Tensor:
    height, width = x.shape[1:3]
    near, far = _norm(spatial.norm_pre, x).chunk(2, dim=-1)
    near = _convolve(spatial.conv_dw, near.permute(0, 3, 1, 2))
    spectrum = torch.fft.rfft2(far.permute(0, 3, 1, 2), norm="ortho")
    spectrum = spectrum * torch.view_as_complex(_resize(spatial.complex_weight, height, width))
    far = torch.fft.irfft2(spectrum, s=(height, width), norm="ortho")
    return _norm(spatial.norm_post, torch.stack([near, far], 2).flatten(1, 2).permute(0, 2, 3, 1))


def _resize(weight: Tensor, height: int, width: int) -> Tensor:
    size = (height, width // 2 + 1)
    if weight.shape[1:3] == size:
        return weight
    planes = F.interpolate(weight.permute(3, 0, 1, 2), size=size, mode="bilinear", align_corners=True)
    return planes.permute(1, 2, 3, 0).contiguous()


def _convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _run_by_convolutions(model: Any, image: Tensor) -> Tensor:
    x = _norm_channels(model.stem.norm, model.stem.conv(image))
    for stage in model.stages:
        if not isinstance(stage.downsample, nn.Identity):
            x = stage.downsample.conv(_norm_channels(stage.downsample.norm, x))
        for block in stage.blocks:
            y = _mix_by_convolutions(block.mixer, _norm_channels(block.norm_mixer, x))
            x = torch.addcmul(x, block.scale_mixer.gamma[:, None, None], y)
            y = F.gelu(_pointwise(block.mlp.fc1, _norm_channels(block.norm_mlp, x)))
            x = torch.addcmul(x, block.scale_mlp.gamma[:, None, None], _pointwise(block.mlp.fc2, y))
    return model.head(x)


def _mix_by_convolutions(mixer: Any, x: Tensor) -> Tensor:
    y, gates = _pointwise(mixer.proj_in, x).split(mixer.widths, dim=1)
    spatial = mixer.spatial
    if isinstance(spatial, GlobalLocalFilter):
        gates = _filter(spatial, gates.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()
    else:
        gates = _convolve(spatial, gates)
    first, *others = gates.split([mixer.widths[0], *(proj.out_features for proj in mixer.projs)], dim=1)
    y = mixer.scale * (y * first)
    for proj, gate in zip(mixer.projs, others, strict=True):
        y = _pointwise(proj, y) * gate * mixer.scale
    return _pointwise(mixer.proj_out, y)


def _pointwise(linear: nn.Linear, x: Tensor) -> Tensor:
    return F.conv2d(x, linear.weight[:, :, None, None], linear.bias)


def _norm_channels(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return _norm(norm, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()
