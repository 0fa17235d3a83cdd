"""Draw what a classifier learned: ``python tools/plot_run.py CONFIG WORK_DIR``, curves and a grid of predictions."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

# Lets a checkout be used without installing it.
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import matplotlib.pyplot as plt  # noqa: E402
import torch  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import SubFigure  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import DATASETS, MODELS  # noqa: E402

from gatedvision.data import collate_samples  # noqa: E402
from gatedvision.engine.cfg_options import CfgOptions  # noqa: E402
from gatedvision.engine.checkpoint_file import find_last_checkpoint, load_weights, read_checkpoint  # noqa: E402
from gatedvision.engine.launch import exit_with_message, load_config  # noqa: E402

COLUMNS = 16


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Draw the curves of a run and its predictions on test images.")
    parser.add_argument("config", type=Path, help="config file of the run")
    parser.add_argument("work_dir", type=Path, help="the run's work directory")
    parser.add_argument("--out", type=Path, help="the picture (default: WORK_DIR/run.png)")
    parser.add_argument("--images", type=int, default=64, help="predictions to show, the wrong ones first")
    parser.add_argument("--cfg-options", nargs="+", action=CfgOptions, metavar="KEY=VALUE", help="replace settings")
    return parser.parse_args()


def draw_run(config: Path, work_dir: Path, out: Path | None, images: int, cfg_options: dict[str, Any] | None) -> None:
    """Draw the curves of a run and the predictions of its last checkpoint into one picture."""
    rows, predictions = _read_log(work_dir), _predict(load_config(config, cfg_options=cfg_options), work_dir)
    lines = -(-images // COLUMNS)
    figure = plt.figure(figsize=(14, 4.2 + 1.05 * lines), layout="constrained")
    curves, grid = figure.subfigures(2, 1, height_ratios=[4, lines]).flat
    left, right = curves.subplots(1, 2)
    _draw_curves(left, rows, {"loss": "training", "val_loss": "held out, without label smoothing"}, "cross entropy")
    _draw_curves(right, rows, {"accuracy/top1": "held out"}, "top-1 accuracy (%)")
    bare = {"frame_on": False, "xticks": [], "yticks": []}
    _draw_predictions(grid, grid.subplots(lines, COLUMNS, squeeze=False, subplot_kw=bare).flat, *predictions)
    path = out or work_dir / "run.png"
    figure.savefig(path, dpi=100)
    print(f"drew {path}")


def _read_log(work_dir: Path) -> list[dict[str, Any]]:
    logs = sorted(work_dir.glob("*/vis_data/scalars.json"))
    rows = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    if not rows:
        raise FileNotFoundError(f"no log '{work_dir}/*/vis_data/scalars.json': has this run trained?")
    if not any("accuracy/top1" in row for row in rows):
        raise ValueError(
            f"the log in '{work_dir}' has no accuracy/top1: this draws classifiers that were validated; for others "
            "use tools/test.py --show-dir"
        )
    return rows


@torch.inference_mode()
def _predict(cfg: Config, work_dir: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    checkpoint = find_last_checkpoint(work_dir)
    if checkpoint is None:
        raise FileNotFoundError(f"no checkpoint in {work_dir}")
    model, dataset = MODELS.build(cfg.model).eval(), DATASETS.build(cfg.test_dataloader.dataset)
    load_weights(model, read_checkpoint(checkpoint)["state_dict"], str(checkpoint))
    batch = collate_samples([dataset[index] for index in range(len(dataset))])
    scores = torch.cat([model(inputs).softmax(1) for inputs in batch["inputs"].split(128)])
    return batch["inputs"], batch["labels"], scores


def _draw_curves(axes: Axes, rows: list[dict[str, Any]], names: dict[str, str], title: str) -> None:
    iterations_per_epoch = max(row["iter"] for row in rows) / max(row["epoch"] for row in rows)
    for name, label in names.items():
        points = [(row["iter"] / iterations_per_epoch, row[name]) for row in rows if name in row]
        axes.plot(*zip(*points, strict=True), label=f"{label}: {points[-1][1]:.4g}")
    axes.set(xlabel="epoch", title=title)
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_predictions(grid: SubFigure, cells: Any, inputs: Any, labels: Any, scores: Any) -> None:
    wrong = (guesses := scores.argmax(1)) != labels
    top1 = 100 * (1 - wrong.float().mean().item())
    grid.suptitle(f"top-1 {top1:.2f} % of {len(labels)} held-out images; {int(wrong.sum())} wrong, shown first in red")
    wrong_first = torch.argsort(wrong, descending=True, stable=True).tolist()
    for axes, i in zip(cells, wrong_first, strict=False):
        image = inputs[i] - inputs[i].amin()
        axes.imshow((image / image.amax()).permute(1, 2, 0), cmap="gray")
        if wrong[i]:
            axes.add_patch(Rectangle((-0.5, -0.5), *image.shape[:0:-1], fill=False, edgecolor="red", linewidth=4))
        text = f"{guesses[i]}, not {labels[i]}" if wrong[i] else f"{guesses[i]}"
        axes.set_title(f"{text} ({scores[i].max():.0%})", fontsize=8, color="red" if wrong[i] else "black")


if __name__ == "__main__":
    exit_with_message(draw_run, **vars(parse_args()))
