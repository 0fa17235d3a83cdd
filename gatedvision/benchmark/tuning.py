"""Find the numbers by which kernels are cut that are fastest on the GPU at hand, and keep them."""

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor

from gatedvision.benchmark.attention import random_inputs
from gatedvision.benchmark.report import DTYPES, Cell, Report
from gatedvision.benchmark.steps import tensors_of
from gatedvision.benchmark.timing import note, time_replay
from gatedvision_kernels import (
    add_rms_norm,
    bidirectional_gla,
    channel_aggregation,
    gated_norm_mix,
    rms_norm,
    swiglu,
)
from gatedvision_kernels._tuning import KNOBS, allowed, override, save_tuning

# Operators and the shapes of their inputs: layers of ViG and MogaNet on 128 images of 224 pixels and 8 of 1,024.
OPERATORS: dict[str, tuple[Callable[..., Tensor | tuple[Tensor, ...]], list[tuple[int, ...]]]] = {
    "rms_norm": (rms_norm, [(25088, 384), (384,)]),
    "add_rms_norm": (add_rms_norm, [(32768, 192), (32768, 192), (192,)]),
    "swiglu": (swiglu, [(25088, 2048)]),
    "gated_norm_mix": (gated_norm_mix, [(150528, 64), (150528, 64), (150528, 64), (64,), (64,)]),
    "channel_aggregation": (channel_aggregation, [(25088, 512), (512,), (1,), (512,)]),
    "bidirectional_gla": (bidirectional_gla, [(8, 4096, 6, width) for width in (32, 32, 64, 32, 32)]),
}
USERS = {
    "row_elements": ("rms_norm", "add_rms_norm", "swiglu"),
    "mix_elements": ("gated_norm_mix",),
    "aggregation_elements": ("channel_aggregation",),
    "row_programs": ("rms_norm", "gated_norm_mix", "channel_aggregation"),
    "attention_programs": ("bidirectional_gla",),
    "attention_registers": ("bidirectional_gla",),
}
# Less is noise, and not worth other numbers than everyone else's.
LEAST_GAIN = 0.02


def tune_kernels(dtype: str = "bf16", seconds: float = 0.2) -> Report:
    """Time forward and backward pass of the kernels with other numbers, one number after the other, and keep the best.

    They are kept for all GPUs of this name in :func:`~gatedvision_kernels._tuning.tuning_file`, and taken from there by
    every process that starts afterwards. Results do not depend on them, but for the order of sums.

    Args:
        dtype: ``"bf16"``, ``"fp16"`` or ``"fp32"``, of all tensors.
        seconds: time to spend on each measurement.

    Returns:
        The numbers with what they gain; its title names the file.

    Raises:
        ValueError: there is no GPU, or ``seconds`` is not positive.
    """
    if not torch.cuda.is_available():
        raise ValueError("there is no GPU to tune kernels for; on a CPU their plain definitions run")
    if seconds <= 0:
        raise ValueError(f"seconds must be positive, got {seconds}")
    calls = {name: make_passes(name, DTYPES[dtype]) for name in OPERATORS}
    rows: list[dict[str, Cell]] = []
    chosen: dict[str, int] = {}
    with ExitStack() as stack:
        for knob in KNOBS:
            times = {value: _time(knob, value, calls, seconds) for value in allowed(knob)}
            default = KNOBS[knob].default
            timed = {value: time for value, time in times.items() if time is not None}
            best = min(timed, key=timed.__getitem__, default=default)
            before, after = times[default], times[best]
            if before is not None and after is not None and after > (1 - LEAST_GAIN) * before:
                best, after = default, before
            chosen[knob] = best
            stack.enter_context(override(**{knob: best}))
            rows.append(
                {
                    "number": knob,
                    "operators": ", ".join(USERS[knob]),
                    "default": str(default),
                    "best": str(best),
                    "default (ms)": before,
                    "best (ms)": after,
                }
            )
    path = save_tuning(torch.cuda.get_device_name(), chosen)
    return Report(f"{dtype}, forward + backward, kept in '{path}'", rows)


def make_passes(name: str, dtype: torch.dtype) -> Callable[[], object]:
    """Return a call of an operator's forward and backward pass on random inputs."""
    operator, shapes = OPERATORS[name]
    inputs = [x.requires_grad_() for x in random_inputs(shapes, dtype)]
    outputs = tensors_of(operator(*inputs))
    gradients = random_inputs([tuple(y.shape) for y in outputs], dtype)

    def passes() -> object:
        return torch.autograd.grad(tensors_of(operator(*inputs)), inputs, gradients)

    return passes


def _time(knob: str, value: int, calls: dict[str, Callable[[], object]], seconds: float) -> float | None:
    """Sum the times of the operators that take a number, ms; ``None``, and a line on stderr, if one cannot run."""
    total = 0.0
    with override(**{knob: value}):
        for name in USERS[knob]:
            try:
                spread = time_replay(name, calls[name], seconds, flush=False)
            except Exception as error:  # whatever a compiler or a GPU has against it
                note(f"{name} with {knob} {value}", error)
                return None
            if spread is None:
                return None
            total += spread.median
    return total
