"""Convert published weights: ``python tools/convert_checkpoint.py SOURCE --out OUT``."""

import argparse
import sys
from pathlib import Path

# Lets a checkout be used without installing it.
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from gatedvision.engine.launch import exit_with_message  # noqa: E402
from gatedvision.models.deepfill_checkpoint import PARTS, convert_checkpoint  # noqa: E402


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Bring weights of DeepFill v2, under TensorFlow's, nipponjo's or mmagic's names, into ours.",
        epilog="The published weights and what is made from them are CC BY-NC 4.0: not for commercial use.",
    )
    parser.add_argument(
        "source", type=Path, help="a .pth, .safetensors or .npz of tensors by name, or a TensorFlow checkpoint's prefix"
    )
    parser.add_argument("--out", "-o", type=Path, required=True, help="the file to write, .safetensors or .pth")
    parser.add_argument("--part", choices=PARTS, default=PARTS[0], help="what to take out of the file")
    parser.add_argument(
        "--bgr",
        action=argparse.BooleanOptionalAction,
        help="the weights are for BGR images, and are swapped to RGB (default: those in TensorFlow's names are)",
    )
    return parser.parse_args()


def main(source: Path, out: Path, part: str, bgr: bool | None) -> None:
    """Convert, and say what came of it."""
    print(convert_checkpoint(source, out, part, bgr))


if __name__ == "__main__":
    exit_with_message(main, **vars(parse_args()))
