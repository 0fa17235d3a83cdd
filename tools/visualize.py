"""Look at gates: ``python tools/visualize.py CONFIG CHECKPOINT --out OUT.png``."""

import argparse
import sys
from pathlib import Path

# Lets a checkout be used without installing it.
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from gatedvision.engine.cfg_options import CfgOptions  # noqa: E402
from gatedvision.engine.launch import exit_with_message  # noqa: E402
from gatedvision.engine.visualize import visualize  # noqa: E402

DESCRIPTION = """\
Draw the coefficients of every attention gate over test images, of volumes over the middle slice, beside the labels and
the prediction; and print their means inside of objects, along borders and outside. Of MSViT, draw which regions its
gate cuts into fine tokens, sorted by what the images cost. Of V-MoE, draw how much each expert sees of each class, and
which patches of an image are left without a slot.
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    parser.add_argument(
        "config", type=Path, help="config file, such as configs/attention_unet/attention_unet_nuclei.py"
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint, or a work directory, meaning its last one")
    parser.add_argument(
        "--out",
        type=Path,
        help="the picture (default: attention.png, tokens.png or, with experts_patches.png, experts.png beside the "
        "checkpoint)",
    )
    parser.add_argument(
        "--images", type=int, default=4, help="images, spread over the test data (default: %(default)s)"
    )
    parser.add_argument("--names", nargs="+", metavar="NAME", help="these images, by file name without its ending")
    parser.add_argument(
        "--weights", choices=["ema", "raw"], default="ema", help="the moving average where there is one, or not"
    )
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: the GPU where there is one)")
    parser.add_argument("--cfg-options", nargs="+", action=CfgOptions, metavar="KEY=VALUE", help="replace settings")
    return parser.parse_args()


if __name__ == "__main__":
    exit_with_message(visualize, **vars(parse_args()))
