"""Under torchrun: train the tiny medical run, and evaluate it, in all processes."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(Path(__file__).parent)]

import torch  # noqa: E402
from communication_threads import communication_threads  # noqa: E402

from gatedvision.engine.distributed import joined_processes  # noqa: E402
from gatedvision.engine.launch import evaluate, train  # noqa: E402

CONFIG = Path(__file__).with_name("tiny_medical.py")

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    with joined_processes("none"):
        train(CONFIG, folder, cfg_options={"train_cfg.max_epochs": 1, "experiment_name": "two"})
        options = {"experiment_name": "two_test"}
        evaluate(
            CONFIG, folder, folder / "test", folder / "metrics.json", cfg_options=options, show_dir=folder / "show"
        )
    assert not communication_threads()
