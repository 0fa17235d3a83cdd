"""Images per second of classification models, in inference and in training."""

import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import gatedvision  # noqa: F401  registers the models
from gatedvision.benchmark.report import DTYPES, Cell, Report, current_device
from gatedvision.benchmark.timing import Spread, time_call

MODES = {"inference": ["inference"], "training": ["training"], "both": ["inference", "training"]}


def benchmark_models(
    names: Sequence[str],
    batch_size: int = 128,
    img_size: int = 224,
    dtype: str = "bf16",
    mode: str = "both",
    compile: str | None = None,
    channels_last: bool = False,
    seconds: float = 3.0,
) -> Report:
    """Time models on random images.

    Inference runs in ``dtype`` throughout. A training step is forward pass, backward pass and AdamW on float32
    weights, under autocast to ``dtype``.

    Args:
        names: any of timm's models.
        batch_size: images per step.
        img_size: side of an image, pixels.
        dtype: ``"bf16"``, ``"fp16"`` or ``"fp32"``.
        mode: ``"inference"``, ``"training"`` or ``"both"``.
        compile: mode of ``torch.compile``, such as ``"default"`` or ``"reduce-overhead"``; ``None`` does not compile.
        channels_last: lay weights and images out with channels last.
        seconds: time to spend on each measurement.

    Raises:
        ValueError: a model is unknown, a size is not positive, or memory runs out.
    """
    for name, size in {"batch size": batch_size, "image size": img_size, "seconds": seconds}.items():
        if size <= 0:
            raise ValueError(f"{name} must be positive, got {size}")
    for name in names:
        if not timm.is_model(name):
            raise ValueError(f"unknown model {name!r}: timm.list_models() has the known ones")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    rows: list[dict[str, Cell]] = []
    for name in names:
        for which in MODES[mode]:
            torch.compiler.reset()
            model = _create(name, img_size)
            row: dict[str, Cell] = {"model": name, "mode": which}
            macs, parameters = count_macs(model, img_size), sum(p.numel() for p in model.parameters())
            model = model.to(device=current_device(), memory_format=layout)  # pyright: ignore[reportCallIssue]
            images = torch.randn(batch_size, 3, img_size, img_size, device=current_device()).to(memory_format=layout)
            prepare = _inference if which == "inference" else _training
            try:
                row |= _measure(prepare(model, images, DTYPES[dtype], compile), batch_size, seconds)
            except torch.OutOfMemoryError as error:
                raise ValueError(f"{name} runs out of memory in {which}: take a smaller batch") from error
            rows.append({**row, "parameters (M)": parameters / 1e6, "GMACs per image": macs and macs / 1e9})
    options = [dtype, f"batch {batch_size}, {img_size} x {img_size}"]
    options += [f"compiled ({compile})"] * bool(compile) + ["channels last"] * channels_last
    return Report(", ".join(options), rows)


def count_macs(model: nn.Module, img_size: int) -> int | None:
    """Count the multiply-adds of convolutions and matrix products for one image, without computing them.

    Bidirectional gated linear attention counts with the matrix products of its plain torch form, which are a few
    per cent more than those of the recurrence.

    Args:
        model: on any device; it stays as it is.
        img_size: side of the image, pixels.

    Returns:
        The number, or ``None`` for a model that cannot run without data.
    """
    shadow = copy.deepcopy(model).to("meta").eval().requires_grad_(False)
    try:
        with FlopCounterMode(display=False) as counter:
            shadow(torch.empty(1, 3, img_size, img_size, device="meta"))
    except Exception as error:  # whatever a model does with numbers that are not there
        print(f"n/a: GMACs of {type(model).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return None
    return counter.get_total_flops() // 2


def _create(name: str, img_size: int) -> nn.Module:
    config = timm.get_pretrained_cfg(name)
    # Only models with a fixed grid of patches are built for a size; others take any, or say so.
    options: dict[str, Any] = {"img_size": img_size} if config is not None and config.fixed_input_size else {}
    return timm.create_model(name, in_chans=3, **options)


def _inference(model: nn.Module, images: Tensor, dtype: torch.dtype, compile: str | None) -> Callable[[], Any]:
    model = model.eval().to(dtype)
    images = images.to(dtype)
    run = torch.compile(model, mode=compile) if compile else model
    return torch.inference_mode()(lambda: run(images))


def _training(model: Any, images: Tensor, dtype: torch.dtype, compile: str | None) -> Callable[[], Any]:
    device = images.device.type
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-4, fused=device == "cuda")
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
    run = torch.compile(model, mode=compile) if compile else model
    labels = torch.randint(model.num_classes, (len(images),), device=device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(run(images), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def _measure(step: Callable[[], Any], batch_size: int, seconds: float) -> dict[str, Cell]:
    device = current_device()
    on_gpu = device.type == "cuda"
    # The shapes stay, so the fastest convolutions are worth looking for.
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        step()
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        time = time_call(step, device, seconds)
    # The slow steps give the low rates.
    rate = Spread(*(1e3 * batch_size / ms for ms in (time.median, time.high, time.low)))
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None
    return {"images/s (20–80 %)": rate, "peak memory (GiB)": peak}
