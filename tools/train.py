"""Train a model: ``python tools/train.py CONFIG``, or ``torchrun --nproc_per_node=N tools/train.py CONFIG``."""

import argparse
import sys
from pathlib import Path

# Lets a checkout be used without installing it.
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from gatedvision.engine.cfg_options import CfgOptions  # noqa: E402
from gatedvision.engine.launch import exit_with_message, train  # noqa: E402


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train the model that a config describes.")
    parser.add_argument("config", type=Path, help="config file, such as configs/vig/vig_nano_digits.py")
    parser.add_argument("--work-dir", type=Path, help="logs and checkpoints (default: work_dirs/<config name>)")
    parser.add_argument(
        "--resume",
        nargs="?",
        type=Path,
        const=True,
        default=False,
        metavar="PATH",
        help="go on from this checkpoint, or from the last one in the work directory",
    )
    parser.add_argument("--amp", choices=["bf16", "fp16"], help="mixed precision")
    parser.add_argument("--cfg-options", nargs="+", action=CfgOptions, metavar="KEY=VALUE", help="replace settings")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm"], default="none")
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate by the total batch")
    parser.add_argument("--compile", action="store_true", help="compile the backbone")
    parser.add_argument("--seed", type=int, help="seed in place of the config's")
    return parser.parse_args()


if __name__ == "__main__":
    exit_with_message(train, **vars(parse_args()))
