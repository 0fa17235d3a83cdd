"""How far the blocks of HorNet and MogaNet are from their floor.

Shapes: B images, a map of H rows and W columns, C channels.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from gatedvision.benchmark.report import DTYPES, Cell, Report, current_device
from gatedvision.benchmark.roofline import DEPTHWISE_RATE, Peaks, Work, find_floor, measure_peaks
from gatedvision.benchmark.sources import create_model
from gatedvision.benchmark.steps import autocast_to
from gatedvision.benchmark.timing import time_call, time_replay
from gatedvision.models.hornet import HorNet
from gatedvision.models.moganet import MogaNet


class Block(NamedTuple):
    """A block and what goes through it.

    Args:
        name: model and stage.
        module: the block.
        inputs: its arguments in a forward pass of the model, on maps ``[B, H, W, C]``.
    """

    name: str
    module: nn.Module
    inputs: tuple[Any, ...]


def benchmark_blocks(
    names: Sequence[str],
    batch_size: int = 128,
    img_size: int = 224,
    dtype: str = "bf16",
    depthwise_rate: float = DEPTHWISE_RATE,
    seconds: float = 0.5,
) -> Report:
    """Time the last block of each stage beside its floor, in training mode under autocast to ``dtype``, not compiled.

    On a GPU a block is timed as a replayed CUDA graph, elsewhere as called. The floor counts, in the dtypes they have,
    the maps that come in and go out, once each; the backward pass reads those that came in and the gradients of those
    that went out, and writes the gradients of those that came in. Weights are read in ``dtype`` once a pass, and their
    gradients written in float32. Products and depthwise convolutions are those of linear layers and convolutions,
    three times for both passes; Fourier transforms are not counted.

    Args:
        names: HorNet and MogaNet models.
        batch_size: B.
        img_size: side of an image, pixels.
        dtype: ``"bf16"``, ``"fp16"`` or ``"fp32"``, of autocast, copy and matrix product.
        depthwise_rate: float32 multiply-adds of the device, 1e12 a second, from its data sheet.
        seconds: time to spend on each measurement.

    Raises:
        ValueError: a model is of another family, or a size is not positive.
    """
    sizes = {"batch size": batch_size, "image size": img_size, "depthwise rate": depthwise_rate, "seconds": seconds}
    for name, size in sizes.items():
        if size <= 0:
            raise ValueError(f"{name} must be positive, got {size}")
    device = current_device()
    models = {name: create_model(name, img_size) for name in names}
    for name, model in models.items():
        if not isinstance(model, (HorNet, MogaNet)):
            raise ValueError(f"blocks are counted for HorNet and MogaNet, got {name!r}, a {type(model).__name__}")
    peaks = measure_peaks(device, DTYPES[dtype], depthwise_rate)
    rows: list[dict[str, Cell]] = []
    for name, model in models.items():
        torch.manual_seed(0)
        images = torch.randn(batch_size, 3, img_size, img_size, device=device)
        model.train().to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        for block in last_blocks(name, model, images, DTYPES[dtype]):
            rows += _time_block(block, DTYPES[dtype], peaks, seconds)
        model.cpu()
    title = f"{dtype} under autocast, batch {batch_size}, {img_size} x {img_size}; peaks: copy {peaks.memory:.3g} TB/s"
    title += f", product {2 * peaks.products:.3g} TFLOP/s, depthwise {peaks.depthwise:.3g} T multiply-adds/s"
    return Report(title, rows)


def last_blocks(name: str, model: nn.Module, images: Tensor, dtype: torch.dtype) -> list[Block]:
    """Return the last block of each stage with what it gets when the model sees the images.

    Args:
        name: of the model.
        model: HorNet or MogaNet, on the device of the images.
        images: ``[B, C, H, W]``.
        dtype: of autocast.
    """
    stages: Any = model.stages
    found: dict[nn.Module, tuple[Any, ...]] = {}
    hooks = [stage.blocks[-1].register_forward_pre_hook(found.__setitem__) for stage in stages]
    with torch.no_grad(), autocast_to(dtype, images.device):
        model(images.contiguous(memory_format=torch.channels_last))
    for hook in hooks:
        hook.remove()
    blocks = (stage.blocks[-1] for stage in stages)
    return [Block(f"{name} stage {index}", block, found[block]) for index, block in enumerate(blocks, 1)]


def count_work(
    block: nn.Module, maps_in: Sequence[Tensor], maps_out: Sequence[Tensor], dtype: torch.dtype
) -> list[Work]:
    """Count a forward pass, and a forward and backward pass.

    Products are counted by weights, not by calls of their modules: fused operators take only the weights.

    Args:
        block: linear layers and convolutions that keep the size of the map.
        maps_in: ``[B, H, W, C]``.
        maps_out: ``[B, H, W, C]``.
        dtype: in which weights are read.
    """
    pixels = maps_in[0][..., 0].numel()
    products = depthwise = 0
    for module in block.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            depthwise += pixels * module.weight.numel()
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            products += pixels * module.weight.numel()
    read, written = (sum(x.numel() * x.element_size() for x in maps) for maps in (maps_in, maps_out))
    weights = sum(parameter.numel() for parameter in block.parameters())
    forward = Work(read + written + weights * dtype.itemsize, products, depthwise)
    backward = 2 * read + written + weights * (dtype.itemsize + torch.float32.itemsize)
    return [forward, Work(forward.memory + backward, 3 * products, 3 * depthwise)]


def _time_block(block: Block, dtype: torch.dtype, peaks: Peaks, seconds: float) -> list[dict[str, Cell]]:
    """Return a row for the forward pass, and one for forward and backward pass."""
    inputs = tree_map_only(Tensor, lambda x: x.detach().requires_grad_(), block.inputs)
    maps_in = _maps(inputs)
    device = maps_in[0].device
    # Without a cache, weights are cast at every call, as they are at every step.
    autocast = autocast_to(dtype, maps_in[0].device, cache_enabled=False)

    def forward() -> list[Tensor]:
        with autocast:
            return _maps(block.module(*inputs))

    @torch.no_grad()
    def forward_alone() -> None:
        forward()

    gradients = [torch.randn_like(x) for x in forward()]
    wanted = [x for x in tree_leaves(inputs) if isinstance(x, Tensor)] + list(block.module.parameters())

    def forward_and_backward() -> None:
        torch.autograd.grad(forward(), wanted, gradients, allow_unused=True)

    height, width, channels = maps_in[0].shape[1:]
    calls = {"forward": forward_alone, "forward + backward": forward_and_backward}
    rows = []
    # Gradients have the shapes and dtypes of the maps that go out.
    works = count_work(block.module, maps_in, gradients, dtype)
    for (which, call), work in zip(calls.items(), works, strict=True):
        if device.type == "cuda":
            time = time_replay(f"{block.name}, {which}", call, seconds, flush=False)
        else:
            time = time_call(call, device, seconds)
        floor, bound = find_floor(work, peaks)
        row: dict[str, Cell] = {"block": block.name, "map": f"{height} x {width} x {channels}", "pass": which}
        row |= {"floor ms": floor, "bound by": bound, "ms (20–80 %)": time}
        row["times the floor"] = time and time.median / floor
        row["roofline (%)"] = time and 100 * floor / time.median
        rows.append(row)
    return rows


def _maps(values: Any) -> list[Tensor]:
    """Return what is a map among nested tuples; the factors that HorNet's blocks pass on are none."""
    return [x for x in tree_leaves(values) if isinstance(x, Tensor) and x.ndim == 4]
