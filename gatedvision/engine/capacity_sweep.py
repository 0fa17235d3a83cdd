"""How V-MoE's accuracy and speed follow its capacity: the library side of ``tools/sweep_capacity.py``."""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.evaluator import Evaluator
from torch import Tensor

from gatedvision.benchmark.report import Cell, Report
from gatedvision.benchmark.sources import count_batch_macs
from gatedvision.benchmark.timing import peak_memory, time_call
from gatedvision.engine.amp import autocast, check_amp
from gatedvision.engine.trained_model import TrainedModel, load_trained
from gatedvision.layers.moe_routers import TopKRouter
from gatedvision.layers.moe_routing import PRIORITIES
from gatedvision.models.vmoe import VMoE

CAPACITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0)


@dataclass(frozen=True)
class Dials:
    """Where the dials of all routers stand.

    Attributes:
        priority: who gets the slots; ``None`` where experts choose.
        num_selected: experts that a token chooses; ``None`` where experts choose.
        capacity: capacity factor.
    """

    priority: str | None
    num_selected: int | None
    capacity: float

    def turn(self, backbone: VMoE) -> None:
        """Set them."""
        backbone.set_capacity(self.capacity, priority=self.priority, num_selected=self.num_selected)


@torch.inference_mode()
def sweep_capacity(
    config: Path,
    checkpoint: Path,
    capacity: Sequence[float] = CAPACITIES,
    priority: Sequence[str] | None = None,
    num_selected: Sequence[int] | None = None,
    weights: Literal["ema", "raw"] = "ema",
    amp: str | None = None,
    device: str | None = None,
    seconds: float = 1.0,
    cfg_options: dict[str, Any] | None = None,
) -> Report:
    """Evaluate a trained model with every combination of dials, in one pass over the test data, and time it.

    Args:
        config: config file of the run.
        checkpoint: its checkpoint, or its work directory, meaning the last one.
        capacity: capacity factors; infinity drops nothing.
        priority: who gets the slots: ``"vanilla"``, ``"batch"`` or, by default, either.
        num_selected: experts that a token chooses; as many as in the config by default.
        weights: the moving average of the weights where there is one, or the weights in training.
        amp: precision, ``"bf16"`` or ``"fp16"``, in place of the config's.
        device: such as ``"cpu"``; the GPU where there is one by default.
        seconds: time to spend on timing each combination.
        cfg_options: settings that replace those of the config, by dotted name.

    Returns:
        A row for each combination: the dials, the metrics of the config, the share of tokens that no expert took, and
        what a batch of the config's size takes: images per second, multiply-adds for an image and, on a GPU, memory
        beside weights and images.

    Raises:
        CheckpointError: there is no such checkpoint, it is damaged, or it does not fit the model.
        ValueError: the model has no slots to give, or a dial cannot be turned so far.
    """
    check_amp(amp)
    if seconds <= 0:
        raise ValueError(f"seconds must be positive, got {seconds}")
    trained = load_trained(config, checkpoint, weights, device, cfg_options)
    backbone = getattr(trained.task, "backbone", None)
    if not isinstance(backbone, VMoE):
        raise ValueError(f"{config} is no classifier by V-MoE: it has no slots to give")
    amp = amp or trained.cfg.get("amp")
    router = next(layer.router for _, layer in backbone.expert_layers())
    own = (PRIORITIES, (router.num_selected,)) if isinstance(router, TopKRouter) else ((None,), (None,))
    dials = itertools.product(priority or own[0], num_selected or own[1], capacity)
    combinations = [Dials(*combination) for combination in dials]
    # A mistake shows before the data are read.
    for dials in combinations:
        dials.turn(backbone)
    metrics, images, size = _evaluate(trained, combinations, amp)
    shadow = copy.deepcopy(backbone).to("meta")
    rows: list[dict[str, Cell]] = []
    for dials, found in zip(combinations, metrics, strict=True):
        row: dict[str, Cell] = {"priority": dials.priority, "experts a token": dials.num_selected}
        row |= {"capacity": float(dials.capacity), **found}
        dials.turn(backbone)
        dials.turn(shadow)
        gmacs = count_batch_macs(shadow, [images]) / 1e9 / len(images)
        rows.append({**row, **_measure(trained, images, amp, seconds), "GMACs per image": gmacs})
    where = f"{trained.checkpoint}, {size} images, timed in batches of {len(images)}"
    return Report(f"{where}, {amp or 'fp32'}", rows)


def _evaluate(
    trained: TrainedModel, combinations: Sequence[Dials], amp: str | None
) -> tuple[list[dict[str, float]], Tensor, int]:
    """Return the metrics of each combination, the first batch of images, and the number of images."""
    task, backbone = trained.task, trained.task.backbone
    dataset = trained.test_data()
    loader = trained.test_loader(dataset)
    evaluators: list[Any] = [Evaluator(trained.cfg.test_evaluator) for _ in combinations]
    left_out = torch.zeros(len(combinations), dtype=torch.float64)
    first = None
    backbone.keep_routing()
    for batch in loader:
        inputs, labels = batch["inputs"].to(trained.device), batch["labels"].to(trained.device)
        first = inputs if first is None else first
        for index, (dials, evaluator) in enumerate(zip(combinations, evaluators, strict=True)):
            dials.turn(backbone)
            with autocast(amp):
                evaluator.process(data_samples=task(inputs, labels, mode="predict"), data_batch=batch)
            left_out[index] += len(labels) * _left_out(backbone)
    backbone.keep_routing(False)
    assert first is not None
    metrics = [evaluator.evaluate(len(dataset)) for evaluator in evaluators]
    shares = (100 * left_out / len(dataset)).tolist()
    found = [{**values, "tokens left out (%)": share} for values, share in zip(metrics, shares, strict=True)]
    return found, first, len(dataset)


def _left_out(backbone: VMoE) -> float:
    """Return the share of tokens that no expert took in the last forward pass, the mean over blocks."""
    shares = []
    for _, layer in backbone.expert_layers():
        assert layer.last.routing is not None
        shares.append((layer.last.routing.slot_of_choice < 0).all(1).double().mean().item())
    return sum(shares) / len(shares)


def _measure(trained: TrainedModel, images: Tensor, amp: str | None, seconds: float) -> dict[str, Cell]:
    def predict() -> None:
        with autocast(amp):
            trained.task(images)

    time = time_call(predict, trained.device, seconds)
    memory = peak_memory(predict) if images.is_cuda else None
    return {"images/s (20–80 %)": time.rate(len(images)), "peak memory (MiB)": memory}
