"""How well runs predict and what an image costs them: the library side of ``tools/plot_costs.py``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.evaluator import Evaluator

from gatedvision.benchmark.sources import count_batch_macs
from gatedvision.engine.amp import autocast
from gatedvision.engine.trained_model import TrainedModel, config_of_run, load_trained

# What is better the higher it is, of the tasks that have a backbone, the first that is there.
_QUALITIES = ("accuracy/top1", "mIoU")
BASELINES = ("random", "centre")


@dataclass(frozen=True)
class CostPoint:
    """One model beside others.

    Attributes:
        series: what it belongs to, such as ``"learned"`` or ``"random"``.
        quality: top-1 accuracy or mean IoU, percent.
        gmacs: billions of multiply-adds for an image, the mean over the images.
        fine_share: share of fine regions, 0 to 1; ``None`` of other models.
        checkpoint: whose weights it has.
    """

    series: str
    quality: float
    gmacs: float
    fine_share: float | None
    checkpoint: str


def measure_costs(
    runs: Sequence[Path],
    baselines: Sequence[str] = BASELINES,
    others: Mapping[str, Sequence[Path]] | None = None,
    weights: Literal["ema", "raw"] = "ema",
    device: str | None = None,
    cfg_options: dict[str, Any] | None = None,
    out: Path | None = None,
) -> list[CostPoint]:
    """Evaluate runs whose gate was trained for different targets, and what they are to be compared with.

    Args:
        runs: work directories of MSViT, with the config that a run leaves there.
        baselines: choices that take the place of the gate's, in the same weights and with the same share of fine
            regions: ``"random"`` regions, or those in the ``"centre"``.
        others: work directories of further runs, by the name of their series: MSViT trained with such a choice or
            another loss, or any other backbone.
        weights: the moving averages of the weights where there are any, or the weights in training.
        device: such as ``"cpu"``; the GPU where there is one by default.
        cfg_options: settings that replace those of every run, by dotted name.
        out: file for the points as JSON.

    Returns:
        The points, series by series in this order: ``learned``, the baselines, the others.

    Raises:
        CheckpointError: a checkpoint is missing, damaged, or does not fit its model.
        FileNotFoundError: a work directory or its config is missing.
        ValueError: one of ``runs`` is no MSViT, or there is no such baseline.
    """
    for name in baselines:
        if name not in BASELINES:
            raise ValueError(f"baselines must be of {', '.join(BASELINES)}, got {name!r}")
    if not runs and not others:
        raise ValueError("no run to evaluate: name at least one work directory")
    points = []
    for run in runs:
        trained = load_trained(config_of_run(run), run, weights, device, cfg_options)
        if not hasattr(trained.task.backbone, "set_choice"):
            raise ValueError(f"'{run}' has no gate of tokens but a {type(trained.task.backbone).__name__}")
        learned = _evaluate(trained, "learned")
        points.append(learned)
        for name in baselines:
            trained.task.backbone.set_choice(name, learned.fine_share)
            points.append(_evaluate(trained, name))
    for name, folders in (others or {}).items():
        points += [_evaluate(load_trained(config_of_run(f), f, weights, device, cfg_options), name) for f in folders]
    series = [*dict.fromkeys(["learned", *baselines, *(others or {})])]
    points.sort(key=lambda point: (series.index(point.series), point.gmacs))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps([asdict(point) for point in points], indent=2) + "\n")
    return points


@torch.inference_mode()
def _evaluate(trained: TrainedModel, series: str) -> CostPoint:
    """Evaluate a model on the test data of its config.

    Raises:
        ValueError: its metrics have no quality to draw.
    """
    dataset = trained.test_data()
    loader = trained.test_loader(dataset)
    evaluator: Any = Evaluator(trained.cfg.test_evaluator)
    evaluator.dataset_meta = dataset.metainfo
    task, sides = trained.task, None
    # What is chosen at random is the same each time.
    with torch.random.fork_rng(), autocast(trained.cfg.get("amp")):
        torch.manual_seed(0)
        for batch in loader:
            sides = sides or batch["inputs"][0].shape
            evaluator.process(data_samples=task.test_step(batch), data_batch=batch)
    metrics = evaluator.evaluate(len(dataset))
    quality = next((metrics[name] for name in _QUALITIES if name in metrics), None)
    if quality is None:
        raise ValueError(f"the test_evaluator of '{trained.checkpoint}' gives none of {', '.join(_QUALITIES)}")
    gmacs = metrics.get("GMACs")
    if gmacs is None:
        assert sides is not None
        gmacs = count_batch_macs(task.backbone, [torch.empty(1, *sides)]) / 1e9
    return CostPoint(series, quality, gmacs, metrics.get("fine_share"), str(trained.checkpoint))
