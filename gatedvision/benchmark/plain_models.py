"""Time models on a CPU beside the plain forms of their forward pass, once these have been found to be the same."""

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gatedvision.benchmark.correctness import check_outputs, fill_constants, settle_norms
from gatedvision.benchmark.inputs import find_sides, make_inputs
from gatedvision.benchmark.mixed_scale import set_coarse_share
from gatedvision.benchmark.plain import plain_forms
from gatedvision.benchmark.report import Cell, Report
from gatedvision.benchmark.sources import create_model
from gatedvision.benchmark.steps import tensors_of
from gatedvision.benchmark.timing import time_in_turns
from gatedvision.models import MixedScaleTokens, VMoE

# The smallest of each family.
SMALLEST = (
    "hornet_tiny_7x7",
    "moganet_xtiny",
    "vig_t",
    "vig_h_t",
    "deepfillv2",
    "attention_unet_monai",
    "vmoe_s32_last2_e8",
    "msvit_tiny",
)
OURS = "ours"
LIMIT = 1e-4
CHECKED_IMAGES = 2
# Numbers of glibc's settings, and bytes: free at the heap's end before some are returned to the system, taken at once,
# and of a block that is mapped for itself.
MALLOC_SETTINGS = {-1: 1 << 30, -2: 1 << 26, -3: 1 << 25}
# Half of the regions fine, which images differ in: what a gate is trained for.
COARSE_SHARE = 0.5


def benchmark_plain(
    names: Sequence[str] = SMALLEST,
    batch_sizes: Sequence[int] = (1, 8),
    img_size: int | None = None,
    seconds: float = 3.0,
) -> Report:
    """Time forward passes in float32 on the CPU, in evaluation, in turns with each plain form of them.

    All forms share one model, and freed memory is kept (:func:`keep_freed_memory`). Gates that choose regions are set
    to make half of them coarse; generators fill a square hole of half the image's sides.

    Args:
        names: what :func:`~gatedvision.benchmark.sources.create_model` takes, of the families of ``plain_forms``.
        batch_sizes: images of a batch.
        img_size: side of an image, or of a cube, pixels; the model's own by default.
        seconds: time to spend on each measurement.

    Raises:
        ValueError: a model has no plain form, a size is not positive, or a plain form is wrong.
    """
    sizes = [*(("batch size", size) for size in batch_sizes), ("image size", 1 if img_size is None else img_size)]
    for name, size in [*sizes, ("seconds", seconds)]:
        if size <= 0:
            raise ValueError(f"{name} must be positive, got {size}")
    kept = keep_freed_memory()
    models = {name: create_model(name, img_size) for name in names}
    forms = {name: plain_forms(model) for name, model in models.items()}
    rows: list[dict[str, Cell]] = []
    for name, model in models.items():
        sides = find_sides(model, img_size)
        torch.manual_seed(0)
        settle(model, make_inputs(model, CHECKED_IMAGES, sides))
        for batch in batch_sizes:
            inputs = make_inputs(model, batch, sides)
            for form, run in forms[name].items():
                check_form(f"{name}, {form}", run, model, inputs)
            rows += _time_forms(name, {OURS: model, **forms[name]}, inputs, seconds)
    memory = "kept" if kept else "returned"
    threads = torch.get_num_threads()
    return Report(f"forward pass in fp32, evaluation, CPU of {threads} threads, freed memory {memory}", rows)


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed, for the rest of the process, and tell whether there is a glibc that does.

    Otherwise it returns the end of its heap to the system and takes it anew, which costs as much as the work between,
    and whether it does so to a form hangs on what was computed before.
    """
    if os.name != "posix":
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    return set_option is not None and all(set_option(number, value) for number, value in MALLOC_SETTINGS.items())


def settle(model: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Turn a model with random weights to evaluation, in which it does what a trained one does: no part is without say.

    Args:
        model: in float32, on the CPU.
        inputs: of its forward pass, two images or more.
    """
    if isinstance(model, VMoE):
        for _, layer in model.expert_layers():
            for linear in (layer.experts.fc1, layer.experts.fc2):
                linear.identical = False
                linear.reset_parameters()
    fill_constants(model)
    settle_norms(model, inputs)
    if isinstance(model, MixedScaleTokens):
        set_coarse_share(model, inputs[0], COARSE_SHARE, torch.float32)


@torch.inference_mode()
def check_form(name: str, run: Callable[..., Any], model: nn.Module, inputs: Sequence[Tensor]) -> float:
    """Compare a plain form with the model.

    Args:
        name: of the form, for the message.
        run: the form.
        model: in evaluation.
        inputs: of both.

    Returns:
        The error relative to the size of the output.

    Raises:
        ValueError: it is above the limit.
    """
    return check_outputs(name, tensors_of(run(*inputs)), tensors_of(model(*inputs)), LIMIT)


def _time_forms(
    name: str, forms: dict[str, Callable[..., Any]], inputs: Sequence[Tensor], seconds: float
) -> list[dict[str, Cell]]:
    """Return a row for each form, ours among them."""
    calls = [partial(run, *inputs) for run in forms.values()]
    with torch.inference_mode():
        times = dict(zip(forms, time_in_turns(calls, inputs[0].device, seconds), strict=True))
    fastest = min(time.median for form, time in times.items() if form != OURS)
    return [
        {
            "model": name,
            "batch": str(len(inputs[0])),
            "form": form,
            "ms (20–80 %)": time,
            "times the fastest plain": time.median / fastest,
        }
        for form, time in times.items()
    ]
