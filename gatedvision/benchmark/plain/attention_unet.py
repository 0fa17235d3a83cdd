"""Attention U-Nets and SonoNet in plain PyTorch (arXiv:1804.03999, 1804.05338).

Shapes: B images, C channels, S sides of the map, two or three.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedvision.layers.attention_gate import AttentionGate, weigh_positions
from gatedvision.layers.conv_batch_norm import ConvBatchNorm
from gatedvision.models.attention_unet import AttentionUnet
from gatedvision.models.attention_unet_3d import DeepSupervision, GridAttentionUnet
from gatedvision.models.attention_unet_monai import MonaiAttentionUnet
from gatedvision.models.sononet_ag import SonoNetAG

Convolve = Callable[[nn.Module, Tensor], Tensor]
AnyUnet = Union[AttentionUnet, GridAttentionUnet, MonaiAttentionUnet, SonoNetAG]


def plain_attention_unet(model: AnyUnet) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the forward pass with channels first and last, and with batch norms apart or in the convolutions' weights.

    It takes images of sides that need no padding.

    Args:
        model: whose parameters are used, in evaluation.
    """
    volumes = getattr(model, "spatial_dims", 2) == 3
    formats = {
        "channels first": torch.contiguous_format,
        "channels last": torch.channels_last_3d if volumes else torch.channels_last,
    }
    convolves: dict[str, Convolve] = {"norms apart": convolve_apart, "norms folded": convolve_folded}
    runs: Any = {
        AttentionUnet: _run_unet,
        MonaiAttentionUnet: _run_monai,
        GridAttentionUnet: _run_grid,
        SonoNetAG: _run_sononet,
    }
    run = runs[type(model)]
    return {
        f"{order}, {norms}": partial(_in_order, memory_format, partial(run, model, convolve))
        for (order, memory_format), (norms, convolve) in product(formats.items(), convolves.items())
    }


def convolve_apart(layer: nn.Module, x: Tensor) -> Tensor:
    """Run a layer of convolution, batch norm and ReLU part by part, and any other as it is."""
    return nn.Sequential.forward(layer, x) if isinstance(layer, ConvBatchNorm) else layer(x)


def convolve_folded(layer: nn.Module, x: Tensor) -> Tensor:
    """Run a layer of convolution, batch norm and ReLU as one convolution and a ReLU, and any other as it is."""
    if not isinstance(layer, ConvBatchNorm) or not hasattr(layer, "norm"):
        return layer(x)
    conv: Any = layer.conv
    norm: Any = layer.norm
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight = conv.weight * scale.view(-1, *[1] * (x.ndim - 1))
    bias = (conv.bias - norm.running_mean) * scale + norm.bias
    run: Any = F.conv2d if x.ndim == 4 else F.conv3d
    x = run(x, weight, bias, conv.stride, conv.padding)
    return F.relu_(x) if hasattr(layer, "act") else x


def _in_order(memory_format: torch.memory_format, run: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    # Of one channel all layouts are one, and only strides say which is asked for.
    return run(torch.empty_like(image, memory_format=memory_format).copy_(image))


def _run_blocks(blocks: nn.Module, convolve: Convolve, x: Tensor) -> Tensor:
    for block in blocks.children():
        x = convolve(block, x)
    return x


def _encode(model: Any, convolve: Convolve, x: Tensor) -> list[Tensor]:
    maps = []
    for stage in model.stages:
        x = _run_blocks(stage.blocks, convolve, stage.downsample(x))
        maps.append(x)
    return maps


def _gate(gate: AttentionGate, convolve: Convolve, x: Tensor, signal: Tensor) -> Tensor:
    """Return the attention map ``[B, 1, *S]`` of a skip connection."""
    query, signal = convolve(gate.proj_x, x), convolve(gate.proj_gating, signal)
    hidden = F.relu_(query + _resize(gate, signal, query))
    return _resize(gate, weigh_positions(convolve(gate.psi, hidden), gate.weighting), x)


def _resize(layer: Any, x: Tensor, like: Tensor) -> Tensor:
    if x.shape[2:] == like.shape[2:]:
        return x
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    return F.interpolate(x, like.shape[2:], mode=mode, align_corners=layer.align_corners)


def _run_unet(model: Any, convolve: Convolve, image: Tensor) -> Tensor:
    *skips, x = _encode(model, convolve, image)
    for level, skip in zip(model.decoder, reversed(skips), strict=True):
        x = convolve(level.up, F.interpolate(x, scale_factor=2.0, mode="nearest"))
        if level.gate is not None:
            skip = skip * _gate(level.gate, convolve, skip, x)
        x = _run_blocks(level.merge, convolve, torch.cat([skip, x], 1))
    return model.head.fc(x)


def _run_monai(model: Any, convolve: Convolve, image: Tensor) -> Tensor:
    *skips, x = _encode(model, convolve, image)
    for level, skip in zip(model.decoder, reversed(skips), strict=True):
        x = level.up(x)
        x = level.merge(torch.cat([skip * _gate(level.gate, convolve, skip, x), x], 1))
    return model.head.fc(x)


def _run_grid(model: Any, convolve: Convolve, image: Tensor) -> Tensor:
    *skips, x = _encode(model, convolve, image)
    signal = convolve(model.gating, x)
    maps = []
    for level, skip in zip(model.decoder, reversed(skips), strict=True):
        gated = [convolve(gate.proj_out, skip * _gate(gate, convolve, skip, signal)) for gate in level.gates]
        if gated:
            skip = convolve(level.combine, torch.cat(gated, 1))
        x = _resize(level, x, skip) if level.up is None else level.up(x)
        x = _run_blocks(level.merge, convolve, torch.cat([skip, x], 1))
        signal = signal if model.shared_gating else x
        maps.append(x)
    head = model.head
    if not isinstance(head, DeepSupervision):
        return head.fc(x)
    levels = [_resize(head, level(y), x) for level, y in zip(head.levels, maps, strict=True)]
    return head.final(torch.cat(levels[::-1], 1))


def _run_sononet(model: Any, convolve: Convolve, image: Tensor) -> Tensor:
    maps = _encode(model, convolve, convolve(model.stem, image))
    features = []
    for gate, x in zip(model.gates, maps[model.first_gated :], strict=False):
        # The sum of what passes the gate is a product of two matrices.
        attention = _gate(gate, convolve, x, maps[-1])
        features.append((x.flatten(2) @ attention.flatten(2).mT).squeeze(2))
    features.append(model.head.global_pool(maps[-1]))
    return model.head.classify(features)[0]
