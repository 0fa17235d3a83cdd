"""Images per second of models of images and volumes, in inference and in training, timed in turns."""

import copy
import gc
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gatedvision.benchmark.correctness import check_outputs, fill_constants, settle_norms
from gatedvision.benchmark.inputs import find_sides, make_inputs, name_sides
from gatedvision.benchmark.model_floor import count_model_work, model_floor
from gatedvision.benchmark.report import DTYPES, Cell, Report, current_device
from gatedvision.benchmark.roofline import Work, measure_peaks
from gatedvision.benchmark.sources import count_macs, create_model, expand_names
from gatedvision.benchmark.steps import inference_step, tensors_of, training_step
from gatedvision.benchmark.timing import Spread, note, time_in_turns

MODES = {"inference": ["inference"], "training": ["training"], "both": ["inference", "training"]}
EAGER = "eager"
RATE, RATIO, MEMORY = "images/s (20–80 %)", "times yardstick", "peak memory (GiB)"
FLOOR, DISTANCE = "floor ms", "times the floor"
OUT_OF_MEMORY = "out of memory: take a smaller batch, or hold fewer models at once (--together)"
# Of a whole model, relative: kernels in float32 sum in another order than plain torch; compiled code rounds elsewhere
# to the dtype, on a GPU to TF32 for float32. Faults are far above.
KERNEL_LIMIT = 1e-3
COMPILED_LIMITS = {torch.bfloat16: 0.1, torch.float16: 0.03, torch.float32: 0.01}
CHECKED_IMAGES = 2
# Models of one class share the code that torch.compile looks at, and each counts as a recompilation of it.
RECOMPILE_LIMIT = 1000


class Condition(NamedTuple):
    """What all models of a comparison have in common.

    Args:
        mode: ``"inference"`` or ``"training"``.
        form: ``"eager"``, or a mode of ``torch.compile``.
        size: side of an image or a volume, pixels; each model's own if ``None``.
        batch: images per step.
        dtype: of inference, or of autocast.
        layout: of weights and images.
    """

    mode: str
    form: str
    size: int | None
    batch: int
    dtype: torch.dtype
    layout: torch.memory_format

    def describe(self) -> str:
        """Name it in a line."""
        return f"{self.mode}, {self.form}, {_name_size(self.size)}, batch {self.batch}"


class Run(NamedTuple):
    """A model that is ready to be timed.

    Args:
        step: one step of it.
        memory: what it takes beside other models, GiB; ``None`` without a GPU.
    """

    step: Callable[[], Any]
    memory: float | None


def benchmark_models(
    names: Sequence[str],
    batch_sizes: Sequence[int] = (128,),
    img_sizes: Sequence[int | None] = (None,),
    dtype: str = "bf16",
    mode: str = "both",
    forms: Sequence[str] | None = None,
    channels_last: bool = False,
    yardstick: str | None = None,
    together: int = 8,
    seconds: float = 3.0,
) -> Report:
    """Time models on random images, against each other.

    Inference runs in ``dtype`` throughout. A training step is forward pass, backward pass and AdamW on float32
    weights, under autocast to ``dtype``; :func:`~gatedvision.benchmark.steps.training_step` says of which loss.

    For each size, batch, mode and form, models are built and compiled once, held on the device side by side, and
    timed in turns: A B C A B C, each turn many steps. More than ``together`` of them make several groups, one after
    the other in the order given; the yardstick takes part in each, and ratios are to it within the group. Memory is
    what a model takes beside the others.

    The floor of a step is that of the model's products and convolutions, each at the rates of a copy and of a large
    product that the device reached just before; see :mod:`~gatedvision.benchmark.model_floor`.

    Before anything is timed, models of this package are compared with their reference on a GPU: float32 logits of two
    images, with those of the same weights on the CPU, where operators follow their plain definitions. A compiled
    model's inference is compared with the same model's, not compiled. Models of others are taken as they are. What
    cannot be run has no figures and a line on stderr.

    Args:
        names: what :func:`~gatedvision.benchmark.sources.create_model` takes, or patterns with ``*`` and ``?`` for
            models of this package.
        batch_sizes: images per step.
        img_sizes: sides of an image or a volume, pixels; ``None`` for each model's own, which of a volume may differ.
        dtype: ``"bf16"``, ``"fp16"`` or ``"fp32"``.
        mode: ``"inference"``, ``"training"`` or ``"both"``.
        forms: ``"eager"``, or modes of ``torch.compile``, such as ``"default"`` or ``"reduce-overhead"``; ``"eager"``
            alone by default.
        channels_last: lay weights and images out with channels last.
        yardstick: a model, among ``names`` or not, to which rates are given as ratios, in the same form.
        together: models held on the device at once, beside the yardstick.
        seconds: time to spend on each measurement.

    Raises:
        ValueError: a model is unknown or wrong, a size is not positive, or nothing could be timed.
    """
    sizes = [*(("batch size", size) for size in batch_sizes), *(("image size", size) for size in img_sizes)]
    for name, size in [*sizes, ("together", together), ("seconds", seconds)]:
        if size is not None and size <= 0:
            raise ValueError(f"{name} must be positive, got {size}")
    names = expand_names([*([] if yardstick is None else [yardstick]), *names])
    facts = {(name, size): _describe(name, size) for size in img_sizes for name in names}
    layout = torch.channels_last if channels_last else torch.contiguous_format
    peaks = measure_peaks(current_device(), DTYPES[dtype])
    works: dict[tuple[str, int | None, int], list[Work] | None] = {}
    rows: list[dict[str, Cell]] = []
    # The shapes stay, so the fastest convolutions are worth looking for.
    with (
        torch._dynamo.config.patch(cache_size_limit=RECOMPILE_LIMIT),
        torch.backends.cudnn.flags(enabled=True, benchmark=True),
    ):
        for size, batch, which, form in product(img_sizes, batch_sizes, MODES[mode], forms or [EAGER]):
            torch.compiler.reset()
            condition = Condition(which, form, size, batch, DTYPES[dtype], layout)
            measured = _compare(names, yardstick, together, condition, seconds)
            for row in measured:
                name, rate = str(row["model"]), row[RATE]
                if (name, size, batch) not in works:
                    works[name, size, batch] = _try_to_count(name, condition)
                counted = works[name, size, batch]
                floor = None if counted is None else model_floor(counted, peaks, which)
                row[FLOOR] = floor
                row[DISTANCE] = 1e3 * batch / rate.median / floor if isinstance(rate, Spread) and floor else None
                rows.append({**row, **facts[name, size]})
    if all(row[RATE] is None for row in rows):
        raise ValueError(f"nothing could be timed of {', '.join(names)}: see the lines above")
    options = [dtype] + ["channels last"] * channels_last + ([f"yardstick {yardstick}"] if yardstick else [])
    return Report(", ".join(options), rows)


def check_model(name: str, model: nn.Module, reference: nn.Module, inputs: Sequence[Tensor]) -> float:
    """Compare the outputs of two modules of the same kind with the same weights, in float32.

    Args:
        name: what is compared, for the message.
        model: on its device. Its weights are those of ``reference`` afterwards.
        reference: on the CPU. Weights that hide others are drawn anew, and batch norms adapted to the inputs.
        inputs: of their forward passes, on the CPU.

    Returns:
        The error relative to the size of the output.

    Raises:
        ValueError: it is above the limit.
    """
    fill_constants(reference)
    settle_norms(reference, inputs)
    model.load_state_dict(reference.state_dict())
    device = next(model.parameters()).device
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        actual, expected = model.eval()(*(x.to(device) for x in inputs)), reference.eval()(*inputs)
    return check_outputs(name, tensors_of(actual), tensors_of(expected), KERNEL_LIMIT)


def _name_size(size: int | None) -> str:
    return "own size" if size is None else f"{size} pixels"


def _describe(name: str, size: int | None) -> dict[str, Cell]:
    """Return the columns that do not depend on how a model is run, once it has been found right.

    Raises:
        ValueError: it is wrong, or does not run on such images.
    """
    torch.manual_seed(0)
    model = create_model(name, size)
    sides = find_sides(model, size)
    macs, parameters = count_macs(model, make_inputs(model, 1, sides)), sum(p.numel() for p in model.parameters())
    row: dict[str, Cell] = {"size": name_sides(sides), "parameters (M)": parameters / 1e6}
    row["GMACs per image"] = macs and macs / 1e9
    error = None
    if current_device().type == "cuda" and type(model).__module__.startswith("gatedvision."):
        twin = copy.deepcopy(model).to(current_device())
        try:
            error = check_model(f"{name}, {_name_size(size)}", twin, model, make_inputs(model, CHECKED_IMAGES, sides))
        except RuntimeError as obstacle:
            message = " ".join(str(obstacle).split())
            raise ValueError(f"cannot run {name!r}, {_name_size(size)}: {message}") from obstacle
    return {**row, "output error": error}


def _try_to_count(name: str, condition: Condition) -> list[Work] | None:
    """Count the work of a forward pass; ``None`` for a model that cannot run without data."""
    try:
        model = create_model(name, condition.size)
        inputs = make_inputs(model, condition.batch, find_sides(model, condition.size), "meta")
        return count_model_work(model, inputs, condition.dtype)
    except Exception as error:  # whatever a model does with numbers that are not there
        note(f"floor of {name}", error)
        return None


def _compare(
    names: Sequence[str], yardstick: str | None, together: int, condition: Condition, seconds: float
) -> list[dict[str, Cell]]:
    """Time models under one condition, in groups."""
    others = [name for name in names if name != yardstick]
    first = [] if yardstick is None else [yardstick]
    rows: dict[str, dict[str, Cell]] = {}
    runs: dict[str, Run | None] = {}
    for start in range(0, max(1, len(others)), together):
        runs = {name: run for name, run in runs.items() if name == yardstick}
        _free_memory()
        for name in [*first, *others[start : start + together]]:
            if name not in runs:
                runs[name] = _try_to_prepare(name, condition)
        # The yardstick's row is that of the first group.
        rows = {**_time_group(runs, yardstick, condition, seconds), **rows}
    runs.clear()
    _free_memory()
    return [rows[name] for name in names]


def _time_group(
    runs: dict[str, Run | None], yardstick: str | None, condition: Condition, seconds: float
) -> dict[str, dict[str, Cell]]:
    ready = {name: run.step for name, run in runs.items() if run is not None}
    times: dict[str | None, Spread] = {}
    try:
        times.update(zip(ready, time_in_turns(list(ready.values()), current_device(), seconds), strict=True))
    except torch.OutOfMemoryError:
        note(f"{', '.join(ready)}, {condition.describe()}", MemoryError(OUT_OF_MEMORY))
    return {name: _row(name, condition, times.get(name), times.get(yardstick), run) for name, run in runs.items()}


def _row(
    name: str, condition: Condition, time: Spread | None, standard: Spread | None, run: Run | None
) -> dict[str, Cell]:
    row: dict[str, Cell] = {"model": name, "mode": condition.mode, "form": condition.form}
    # The model's own size is still to come; this is its place among the columns.
    row |= {"size": condition.size, "batch": condition.batch}
    row[RATE] = time and time.rate(condition.batch)
    row[RATIO] = standard.median / time.median if standard and time else None
    row[MEMORY] = run and run.memory
    return row


def _try_to_prepare(name: str, condition: Condition) -> Run | None:
    subject = f"{name}, {condition.describe()}"
    try:
        return _prepare(name, condition)
    except torch.OutOfMemoryError:
        note(subject, MemoryError(OUT_OF_MEMORY))
    except Exception as error:  # whatever a model or its compiler raises
        note(subject, error)
    _free_memory()
    return None


def _prepare(name: str, condition: Condition) -> Run:
    """Build a model, compile it, run it until it is warm, and see what memory it takes."""
    device = current_device()
    on_gpu = device.type == "cuda"
    held = torch.cuda.memory_allocated() if on_gpu else 0
    mode, form, size, batch, dtype, layout = condition
    torch.manual_seed(0)
    model: Any = create_model(name, size)
    sides = find_sides(model, size)
    if layout == torch.channels_last and len(sides) == 3:
        layout = torch.channels_last_3d
    model = model.to(device=device, memory_format=layout)
    inputs = [x.to(memory_format=layout) for x in make_inputs(model, batch, sides, device)]
    prepare = inference_step if mode == "inference" else training_step
    step = prepare(model, inputs, dtype, None if form == EAGER else form)
    step()
    if mode == "inference" and form != EAGER:
        expected = [x.clone() for x in tensors_of(prepare(model, inputs, dtype)())]
        check_outputs(f"{name}, compiled", tensors_of(step()), expected, COMPILED_LIMITS[dtype])
    if not on_gpu:
        return Run(step, None)
    torch.cuda.reset_peak_memory_stats()
    # CUDA graphs are recorded on the way.
    for _ in range(3):
        step()
    return Run(step, (torch.cuda.max_memory_allocated() - held) / 2**30)


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
