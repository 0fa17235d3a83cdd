"""Under torchrun: train, break off, resume and evaluate the tiny run in all processes."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(Path(__file__).parent)]

import torch  # noqa: E402
from communication_threads import communication_threads  # noqa: E402
from tiny_data import InterruptionError  # noqa: E402

from gatedvision.engine.distributed import joined_processes  # noqa: E402
from gatedvision.engine.launch import evaluate, train  # noqa: E402

CONFIG = Path(__file__).with_name("tiny_config.py")
SEGMENTATION = Path(__file__).with_name("tiny_segmentation_config.py")
# Whatever does not depend on the process: then two processes of two images are one of four.
SAME_EVERYWHERE = {
    "model.mixup": None,
    "model.backbone.drop_path_rate": 0.0,
    "model.backbone.drop_rate": 0.0,
    "train_dataloader.drop_last": True,
    "train_cfg.max_epochs": 2,
    # By the whole batch, which is the same.
    "auto_scale_lr.enable": True,
}


def run(work_dir: Path, name: str, resume: bool = False, **options: object) -> None:
    """Train; runs of one name would share their history within a process."""
    train(CONFIG, work_dir, resume=resume, cfg_options={"train_cfg.max_epochs": 2, "experiment_name": name, **options})


def main() -> None:
    """Write the checkpoints of four runs and the metrics of two of them."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    run(folder / "same", "same", **SAME_EVERYWHERE, **{"train_dataloader.batch_size": 2})
    run(folder / "whole", "whole")
    interrupt = {"type": "tiny_data.Interrupt", "iteration": 5}
    ema = {"type": "gatedvision.engine.EMA", "momentum": 0.1}
    try:
        run(folder / "resumed", "interrupted", custom_hooks=[ema, interrupt])
    except InterruptionError:
        run(folder / "resumed", "resumed", resume=True, custom_hooks=[ema])
    evaluate(CONFIG, folder / "same", folder / "test", out=folder / "metrics.json")
    work_dir = folder / "segmentation"
    train(SEGMENTATION, work_dir, cfg_options={"train_cfg.max_epochs": 1, "experiment_name": "segmentation"})
    options = {"experiment_name": "segmentation_test"}
    out, pictures = work_dir / "metrics.json", work_dir / "pictures"
    evaluate(SEGMENTATION, work_dir, folder / "test", out, cfg_options=options, show_dir=pictures)


if __name__ == "__main__":
    # A process group cannot be joined a second time under the same torchrun.
    with joined_processes("none"):
        main()
    assert not communication_threads()
