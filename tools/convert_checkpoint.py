"""Convert published weights: ``python tools/convert_checkpoint.py SOURCE --out OUT``."""

import argparse
import sys
from pathlib import Path

# Lets a checkout be used without installing it.
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from gatedvision.engine.launch import exit_with_message  # noqa: E402
from gatedvision.models import deepfill_checkpoint, vmoe_checkpoint  # noqa: E402
from gatedvision.models.deepfill_checkpoint import PARTS  # noqa: E402


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Bring published weights into ours: of V-MoE, in its own format of many parts, or of DeepFill v2, "
        "under TensorFlow's, nipponjo's or mmagic's names. Which they are is read from the files.",
        epilog="DeepFill v2's published weights and what is made from them are CC BY-NC 4.0: not for commercial use.",
    )
    parser.add_argument(
        "source",
        type=Path,
        help="a .pth, .safetensors or .npz of tensors by name, or the prefix of a TensorFlow or a V-MoE checkpoint",
    )
    parser.add_argument("--out", "-o", type=Path, required=True, help="the file to write, .safetensors or .pth")
    parser.add_argument("--part", choices=PARTS, default=PARTS[0], help="what to take out of a file of DeepFill v2")
    parser.add_argument(
        "--bgr",
        action=argparse.BooleanOptionalAction,
        help="DeepFill v2's weights are for BGR images, and are swapped to RGB (default: those in TensorFlow's names)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    return parser.parse_args()


def main(source: Path, out: Path, part: str, bgr: bool | None, overwrite: bool) -> None:
    """Convert, and say what came of it.

    Raises:
        FileExistsError: if there is a file already.
        ValueError: for options that do not go with what the files hold.
    """
    if out.exists() and not overwrite:
        raise FileExistsError(f"'{out}' exists; pass --overwrite to replace it, or another --out")
    if not vmoe_checkpoint.holds_vmoe(source):
        print(deepfill_checkpoint.convert_checkpoint(source, out, part, bgr))
    elif part != PARTS[0] or bgr is not None:
        raise ValueError(f"{str(source)!r} is of V-MoE, which has neither parts nor BGR; leave out --part and --bgr")
    else:
        print(vmoe_checkpoint.convert_checkpoint(source, out))


if __name__ == "__main__":
    exit_with_message(main, **vars(parse_args()))
