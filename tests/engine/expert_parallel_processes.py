"""Train the tiny run on experts in one process, and with experts spread over several; compare.

By itself the script starts 1, 2 and 4 processes on the CPU. Under torchrun it compares those started with one alone::

    torchrun --nproc-per-node 2 tests/engine/expert_parallel_processes.py --backend nccl

The differences are printed, and the exit code is 1 if one is out of bounds.
"""

import argparse
import json
import os
import socket
import sys
import tempfile
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(Path(__file__).parent)]

import torch  # noqa: E402
from communication_threads import communication_threads  # noqa: E402
from tiny_data import InterruptionError  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.multiprocessing.spawn import start_processes  # noqa: E402

import gatedvision  # noqa: E402

if find_spec("albumentations") is None:
    # A GPU machine may have no more than what this run needs; other tasks and metrics need more.
    for package, module, name in (("tasks", "classification", "Classification"), ("metrics", "accuracy", "Accuracy")):
        bare: Any = ModuleType(f"gatedvision.{package}")
        bare.__path__ = [str(Path(gatedvision.__file__).with_name(package))]
        sys.modules[bare.__name__] = bare
        setattr(bare, name, getattr(import_module(f"{bare.__name__}.{module}"), name))

from gatedvision.engine.checkpoint_file import read_checkpoint  # noqa: E402
from gatedvision.engine.distributed import joined_processes  # noqa: E402
from gatedvision.engine.launch import train  # noqa: E402
from gatedvision.layers.moe_routers import GroupRouter  # noqa: E402

CONFIG = Path(__file__).with_name("tiny_experts.py")
# What a run changes in the config, in which type it trains, and the largest difference allowed.
RUNS: dict[str, tuple[dict[str, Any], torch.dtype, float]] = {
    "group": ({}, torch.float64, 1e-6),
    # Balanced over the whole batch; and gradients of two batches make a step.
    "batch": ({"model.backbone.balance": "batch", "optim_wrapper.accumulative_counts": 2}, torch.float64, 1e-6),
    # Adam divides by the gradient's size, which would magnify rounding.
    "bf16": ({"amp": "bf16", "optim_wrapper.optimizer.eps": 1.0}, torch.float32, 1e-2),
}
# Broken off and resumed; and begun by one process. Of which run they are.
RESUMED = {"interrupted": "batch", "from_one": "group"}
# Processes, how many of them share the experts, and what is compared.
LAYOUTS = {
    (2, 1): ("batch",),
    (2, 2): (*RUNS, *RESUMED),
    (4, 2): ("group", "batch", "interrupted"),
    (4, 4): ("group",),
}
TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def same_noise(router: GroupRouter, logits: Tensor) -> Tensor | None:
    """Draw the noise of a router, the same for each image, and so in whichever process it is."""
    if not router.training:
        return None
    noise = torch.randn(logits.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return noise.to(logits).expand_as(logits) * router.noise_std


def run(work_dir: Path, name: str, num_processes: int, size: int, **options: Any) -> None:
    """Train a share of the joined batch of 8."""
    torch.set_num_threads(1)
    settings, dtype, _ = RUNS[name]
    torch.set_default_dtype(dtype)
    resume = options.pop("resume", False)
    # Runs of one name would share their history within a process.
    own = {"expert_parallel": size, "experiment_name": f"{work_dir.parent.name}_{work_dir.name}_{len(options)}{resume}"}
    own["train_dataloader.batch_size"] = 8 // num_processes
    train(CONFIG, work_dir, resume=resume, cfg_options={**settings, **own, **options})


def run_alone(folder: Path) -> None:
    """Train in one process."""
    for name in RUNS:
        run(folder / "one" / name, name, 1, 1)


def run_together(folder: Path, names: tuple[str, ...], num_processes: int, size: int) -> None:
    """Train in several processes."""
    ema = {"type": "gatedvision.engine.EMA", "momentum": 0.1}
    interrupt = {"type": "tiny_data.Interrupt", "iteration": 7}
    for name in names:
        work_dir, options = folder / name, {}
        if name == "interrupted":
            # In the middle of an epoch, which begins in the middle of a step.
            with suppress(InterruptionError):
                run(work_dir, RESUMED[name], num_processes, size, custom_hooks=[ema, interrupt])
            options = {"resume": True}
        elif name == "from_one":
            options = {"resume": folder.parent / "one" / RESUMED[name] / "epoch_1.pth"}
        run(work_dir, RESUMED.get(name, name), num_processes, size, **options)


def compare(folder: Path, names: tuple[str, ...]) -> dict[str, float]:
    """Return the largest difference between one process and several for each run.

    Raises:
        ValueError: the checkpoints differ in names or shapes.
    """
    found = {}
    for name in names:
        one = read_checkpoint(folder.parent / "one" / RESUMED.get(name, name) / "epoch_2.pth")
        several = read_checkpoint(folder / name / "epoch_2.pth")
        found[name] = max(_differences(one, several))
    return found


def _differences(one: dict[str, Any], other: dict[str, Any]) -> list[float]:
    tensors = [
        {
            **saved["state_dict"],
            **saved["ema_state_dict"],
            **{(i, key): x for i, values in saved["optimizer"]["state"].items() for key, x in values.items()},
            **{name: saved["message_hub"]["log_scalars"][name]["log"] for name in ("train/grad_norm", "val/loss")},
        }
        for saved in (one, other)
    ]
    shapes = [{name: x.shape for name, x in some.items()} for some in tensors]
    if shapes[0] != shapes[1]:
        raise ValueError("the checkpoints differ in names or shapes")
    return [(x.double() - tensors[1][name].double()).abs().max().item() for name, x in tensors[0].items()]


def judge(folder: Path, names: tuple[str, ...], size: int) -> bool:
    """Print and write the differences, and tell whether all are in bounds."""
    differences = compare(folder, names)
    for name, difference in differences.items():
        allowed = RUNS[RESUMED.get(name, name)][2]
        print(f"{folder.name}, expert_parallel {size}, {name}: largest difference {difference:.3g} ({allowed} allowed)")
    (folder / "differences.json").write_text(json.dumps(differences))
    return all(difference <= RUNS[RESUMED.get(name, name)][2] for name, difference in differences.items())


def start(rank: int, folder: Path, num_processes: int, size: int, port: int) -> None:
    """Be one process of several, or the only one."""
    GroupRouter.draw_noise = same_noise
    for name in TORCHRUN:
        os.environ.pop(name, None)
    if num_processes == 1:
        run_alone(folder)
        return
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_processes, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in values.items()}}
    with joined_processes("none"):
        run_together(folder_of(folder, num_processes, size), LAYOUTS[num_processes, size], num_processes, size)
    assert not communication_threads()


def folder_of(folder: Path, num_processes: int, size: int) -> Path:
    """Return where a layout's runs are."""
    return folder / f"{num_processes}_processes_{size}"


def main() -> bool:
    """Run and compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="for checkpoints (default: a temporary one)")
    parser.add_argument("--backend", choices=["gloo", "nccl"], default="gloo")
    args = parser.parse_args()
    if args.backend == "gloo":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif "RANK" not in os.environ:
        parser.error("--backend nccl is for processes that torchrun started")
    GroupRouter.draw_noise = same_noise
    folder = args.folder or Path(tempfile.gettempdir(), f"expert_parallel_{os.environ.get('MASTER_PORT', os.getpid())}")
    if "RANK" not in os.environ:
        for num_processes, size in ((1, 1), *LAYOUTS):
            with socket.create_server(("127.0.0.1", 0)) as server:
                port = server.getsockname()[1]
            # Copies of this process, which has imported everything and computed nothing.
            start_processes(start, (folder, num_processes, size, port), num_processes, start_method="fork")
        judgements = [judge(folder_of(folder, *layout), names, layout[1]) for layout, names in LAYOUTS.items()]
        return all(judgements)
    rank, num_processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if rank == 0:
        start_processes(start, (folder, 1, 1, 0), 1, start_method="spawn")
    together, names = folder_of(folder, num_processes, 2), LAYOUTS[2, 2]
    with joined_processes("none"):
        run_together(together, names, num_processes, 2)
    return rank != 0 or judge(together, names, 2)


if __name__ == "__main__":
    sys.exit(not main())
