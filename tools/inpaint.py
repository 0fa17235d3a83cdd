"""Fill holes in images: ``python tools/inpaint.py IMAGE MASK -o OUT --checkpoint FILE``, also for whole folders."""

import argparse
import sys
from pathlib import Path

# Lets a checkout be used without installing it.
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from gatedvision.engine.cfg_options import CfgOptions  # noqa: E402
from gatedvision.engine.launch import exit_with_message  # noqa: E402
from gatedvision.inpainting.command import inpaint_files  # noqa: E402

DESCRIPTION = """\
Fill what a mask marks, or what is transparent. The result has the size, mode and bit depth of the image (a palette
becomes RGB), upright after its EXIF orientation, and equals it in every known pixel unless it is written as JPEG.
Holes up to half of --max-size wide are filled at full resolution, in windows around them; wider ones reduced.
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    parser.add_argument("image", help="image, folder, or pattern in quotes, such as 'photos/*.jpg'")
    parser.add_argument(
        "mask",
        nargs="?",
        help="mask, white in the hole; for many images a folder or pattern of masks called as the images",
    )
    parser.add_argument("-o", "--out", required=True, help="file to write, or folder")
    parser.add_argument("--checkpoint", type=Path, help="weights: .pth, .safetensors, or the work directory of a run")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: the GPU where there is one)")
    parser.add_argument("--amp", choices=["bf16", "fp16"], help="reduced precision")
    parser.add_argument(
        "--threshold",
        type=float,
        default=127.5,
        help="hole where the mask is above this, of 255 (default: %(default)s)",
    )
    parser.add_argument("--invert", action="store_true", help="the mask is black in the hole")
    parser.add_argument("--dilate", type=int, default=0, metavar="PIXELS", help="grow the hole first")
    parser.add_argument(
        "--max-size", type=int, default=512, help="longest side the network is run at, pixels (default: %(default)s)"
    )
    parser.add_argument("--model", help="the network's name in timm (default: the run's, or deepfillv2)")
    parser.add_argument(
        "--model-options",
        nargs="+",
        action=CfgOptions,
        metavar="KEY=VALUE",
        help="options of the network, such as dim=24",
    )
    return parser.parse_args()


if __name__ == "__main__":
    exit_with_message(inpaint_files, **vars(parse_args()))
