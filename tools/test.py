"""Evaluate a checkpoint: ``python tools/test.py CONFIG CHECKPOINT``, also under torchrun."""

import argparse
import sys
from pathlib import Path

# Lets a checkout be used without installing it.
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from gatedvision.engine.cfg_options import CfgOptions  # noqa: E402
from gatedvision.engine.launch import evaluate, exit_with_message  # noqa: E402


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint on the test data of a config.")
    parser.add_argument("config", type=Path, help="config file, such as configs/vig/vig_nano_digits.py")
    parser.add_argument("checkpoint", type=Path, help="checkpoint, or a work directory, meaning its last one")
    parser.add_argument("--work-dir", type=Path, help="folder for the log (default: work_dirs/<config name>)")
    parser.add_argument("--out", type=Path, help="write the metrics to this JSON file")
    parser.add_argument("--show-dir", type=Path, help="write a picture of every prediction into this folder")
    parser.add_argument(
        "--weights", choices=["ema", "raw"], default="ema", help="the moving average where there is one, or not"
    )
    parser.add_argument("--amp", choices=["bf16", "fp16"], help="mixed precision")
    parser.add_argument("--cfg-options", nargs="+", action=CfgOptions, metavar="KEY=VALUE", help="replace settings")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm"], default="none")
    parser.add_argument("--compile", action="store_true", help="compile the backbone")
    parser.add_argument("--seed", type=int, help="seed in place of the config's")
    return parser.parse_args()


if __name__ == "__main__":
    exit_with_message(evaluate, **vars(parse_args()))
