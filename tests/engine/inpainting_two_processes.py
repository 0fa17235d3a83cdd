"""Under torchrun: train the tiny inpainting run on halves of batches, and evaluate it, in all processes."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(Path(__file__).parent)]

import torch  # noqa: E402
from communication_threads import communication_threads  # noqa: E402

from gatedvision.engine.distributed import joined_processes  # noqa: E402
from gatedvision.engine.launch import evaluate, train  # noqa: E402

CONFIG = Path(__file__).with_name("tiny_inpainting.py")
# Two processes of two images are one of four. Adam divides by the gradient's size, which would magnify rounding.
SAME = {"train_dataloader.batch_size": 4, "train_cfg.max_epochs": 1}
SAME |= {f"optim_wrapper.{part}.optimizer.eps": 1.0 for part in ("generator", "discriminator")}
SAME |= {f"optim_wrapper.{part}.optimizer.lr": 1.0 for part in ("generator", "discriminator")}

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    with joined_processes("none"):
        train(CONFIG, folder, cfg_options={**SAME, "train_dataloader.batch_size": 2, "experiment_name": "two"})
        options = {"experiment_name": "two_test"}
        evaluate(
            CONFIG, folder, folder / "test", folder / "metrics.json", cfg_options=options, show_dir=folder / "show"
        )
    assert not communication_threads()
