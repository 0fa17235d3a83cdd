"""Look at attention gates: ``python tools/visualize.py CONFIG CHECKPOINT --out OUT.png``."""

import argparse
import sys
from pathlib import Path

# Lets a checkout be used without installing it.
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from mmengine.config import DictAction  # noqa: E402

from gatedvision.engine.attention_maps import draw_attention_maps  # noqa: E402
from gatedvision.engine.launch import exit_with_message  # noqa: E402

DESCRIPTION = """\
Draw the coefficients of every attention gate over test images, of volumes over the middle slice, beside the labels and
the prediction; and print their means inside of objects, along borders and outside.
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    parser.add_argument(
        "config", type=Path, help="config file, such as configs/attention_unet/attention_unet_nuclei.py"
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint, or a work directory, meaning its last one")
    parser.add_argument("--out", type=Path, help="the picture (default: attention.png beside the checkpoint)")
    parser.add_argument(
        "--images", type=int, default=4, help="images, spread over the test data (default: %(default)s)"
    )
    parser.add_argument("--names", nargs="+", metavar="NAME", help="these images, by file name without its ending")
    parser.add_argument(
        "--weights", choices=["ema", "raw"], default="ema", help="the moving average where there is one, or not"
    )
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: the GPU where there is one)")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE", help="replace settings")
    return parser.parse_args()


if __name__ == "__main__":
    exit_with_message(draw_attention_maps, **vars(parse_args()))
