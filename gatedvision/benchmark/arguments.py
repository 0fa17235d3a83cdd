"""What each benchmark can be told on the command line of ``tools/benchmark.py``."""

from argparse import ArgumentParser
from pathlib import Path

from gatedvision.benchmark.plain_models import SMALLEST


def add_operator(command: ArgumentParser) -> None:
    """Add the arguments of an operator."""
    command.add_argument("--batch", type=int, default=128)
    command.add_argument("--tokens", type=int, default=196)
    command.add_argument("--heads", type=int, default=6)
    command.add_argument("--key-width", type=int, default=32, help="of a head, for queries too")
    command.add_argument("--value-width", type=int, default=64, help="of a head")
    command.add_argument("--bandwidth", type=float, default=3.0, help="of the memory, TB/s, for the floor")
    command.add_argument("--seconds", type=float, default=0.5, help="to spend on each measurement")


def add_blocks(command: ArgumentParser) -> None:
    """Add the arguments of blocks."""
    command.add_argument("names", nargs="+", metavar="MODEL")
    command.add_argument("--batch-size", type=int, default=128)
    command.add_argument("--img-size", type=int, default=224, help="side of an image, pixels")
    command.add_argument(
        "--depthwise-rate",
        type=float,
        default=33.5,
        help="float32 multiply-adds of the device, 1e12 a second, by its data sheet (default: of H100 and H200)",
    )
    command.add_argument("--seconds", type=float, default=0.5, help="to spend on each measurement")


def add_model(command: ArgumentParser) -> None:
    """Add the arguments of models."""
    command.add_argument(
        "names",
        nargs="+",
        metavar="MODEL",
        help="a name of timm's or module:callable, with arguments as in 'vig_s(drop_path_rate=0.1)'; '*' and '?' stand "
        "for anything in the names of this package's",
    )
    command.add_argument(
        "--batch-size", "--batch", dest="batch_sizes", nargs="+", type=int, default=[128], metavar="IMAGES"
    )
    command.add_argument(
        "--img-size",
        "--size",
        dest="img_sizes",
        nargs="+",
        type=int,
        default=[None],
        metavar="PIXELS",
        help="of a side (default: each model's own)",
    )
    command.add_argument("--mode", choices=["inference", "training", "both"], default="both")
    command.add_argument(
        "--compile",
        dest="forms",
        nargs="?",
        const="default",
        action="append",
        choices=["eager", "default", "reduce-overhead", "max-autotune"],
        help="in a mode of torch.compile; reduce-overhead replays CUDA graphs; may be repeated, and with eager, too",
    )
    command.add_argument("--channels-last", action="store_true", help="lay weights and images out with channels last")
    command.add_argument("--yardstick", metavar="MODEL", help="timed, too, in each comparison: rates as ratios to it")
    command.add_argument("--together", type=int, default=8, help="models held on the device at once and timed in turns")
    command.add_argument("--seconds", type=float, default=3.0, help="to spend on each measurement")
    command.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.png",
        help="draw throughput and memory against resolution, and time against its floor",
    )


def add_experts(command: ArgumentParser) -> None:
    """Add the arguments of a layer of experts."""
    command.add_argument("--images", type=int, default=128, help="routed in groups of 8")
    command.add_argument("--tokens", type=int, default=197, help="of an image")
    command.add_argument("--width", type=int, default=768, help="of a token")
    command.add_argument("--hidden", type=int, default=3072, help="width within an expert")
    command.add_argument("--experts", type=int, default=8)
    command.add_argument("--selected", type=int, default=2, help="experts of a token")
    command.add_argument("--capacities", type=float, nargs="+", default=[1.05, 0.5], metavar="FACTOR")
    command.add_argument("--seconds", type=float, default=0.5, help="to spend on each measurement")


def add_scales(command: ArgumentParser) -> None:
    """Add the arguments of tokens of two scales."""
    command.add_argument("--size", choices=["tiny", "small", "base"], default="small")
    command.add_argument("--coarse-shares", type=float, nargs="+", default=[0.5, 0.9], metavar="SHARE")
    packings = ["padded", "varlen", "jagged", "flex", "budget"]
    command.add_argument("--packings", nargs="+", choices=[*packings, "dense"], default=packings)
    command.add_argument("--batch-size", type=int, default=256)
    command.add_argument("--img-size", type=int, default=224, help="side of an image, pixels")
    command.add_argument("--mode", choices=["inference", "training", "both"], default="both")
    command.add_argument(
        "--compile",
        nargs="?",
        const="default",
        choices=["default", "reduce-overhead", "max-autotune"],
        help="time what has static shapes compiled, too, in a mode of torch.compile",
    )
    command.add_argument("--seconds", type=float, default=3.0, help="to spend on each measurement")


def add_tune(command: ArgumentParser) -> None:
    """Add the arguments of tuning."""
    command.add_argument("--seconds", type=float, default=0.2, help="to spend on each measurement")


def add_plain(command: ArgumentParser) -> None:
    """Add the arguments of models beside plain PyTorch."""
    command.add_argument(
        "names",
        nargs="*",
        default=SMALLEST,
        metavar="MODEL",
        help="a model of this package, with arguments as in 'vig_s(depth=3)'; by default the smallest of each family",
    )
    command.add_argument("--batch-size", dest="batch_sizes", nargs="+", type=int, default=[1, 8], metavar="IMAGES")
    command.add_argument("--img-size", type=int, metavar="PIXELS", help="of a side; by default the model's own")
    command.add_argument("--seconds", type=float, default=3.0, help="to spend on each measurement")


def add_compare(command: ArgumentParser) -> None:
    """Add the arguments of a comparison."""
    command.add_argument("new", type=Path, help="JSON of a run of models with a yardstick")
    command.add_argument("old", type=Path, help="that of the run before: same command, same kind of device")
    command.add_argument("--tolerance", type=float, default=0.05, help="loss, relative, that is no regression")
    command.add_argument("--partial", action="store_true", help="compare what is in both: a run of some models")


def add_merge(command: ArgumentParser) -> None:
    """Add the arguments of a merger."""
    command.add_argument("runs", type=Path, nargs="+", help="JSON of runs of models with a yardstick, one device")
    command.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="for all; the table to FILE.md")
