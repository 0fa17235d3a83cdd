"""Processes of one run: torchrun, slurm, or a single one; NCCL on GPUs and gloo on CPUs."""

import gc
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapperDict
from torch import Tensor, nn

LAUNCHERS = ("none", "pytorch", "slurm")


@contextmanager
def joined_processes(launcher: str) -> Iterator[str]:
    """Join the processes of the run, if there are several, and leave them at the end.

    Args:
        launcher: ``"none"``, ``"pytorch"`` (torchrun) or ``"slurm"`` (srun).

    Yields:
        The launcher in effect. ``"none"`` under torchrun becomes ``"pytorch"``: otherwise every process would train a
        model of its own into the same folder.

    Raises:
        ValueError: another launcher, or its environment variables are not set.
    """
    if launcher not in LAUNCHERS:
        raise ValueError(f"launcher must be one of {', '.join(LAUNCHERS)}, got {launcher!r}")
    if launcher == "none" and {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys():
        launcher = "pytorch"
        if os.environ["RANK"] == "0":
            print(f"started by torchrun: joining {os.environ['WORLD_SIZE']} processes (--launcher pytorch)")
    if launcher == "none" or dist.is_initialized():
        yield launcher
        return
    if launcher == "slurm":
        _translate_slurm_variables()
    missing = [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR") if name not in os.environ]
    if missing:
        raise ValueError(f"launcher {launcher!r} needs {', '.join(missing)} in the environment; start with torchrun")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield launcher
    finally:
        dist.destroy_process_group()
        # A model that averaged its gradients still holds the group, and sits in reference cycles with its runner. The
        # group's threads, if left to the end of the interpreter, may abort the process there (gloo, Python 3.11).
        # The second collection is for what only the data-parallel wrapper's C++ side held.
        gc.collect()
        gc.collect()


class DataParallel(MMDistributedDataParallel):
    """mmengine's wrapper, for models with several optimizers, too.

    Such a model takes its steps by itself, and calls this wrapper for each loss, so that gradients are averaged.
    """

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """Train one iteration.

        Args:
            data: the batch.
            optim_wrapper: the optimizer, or several of them.

        Returns:
            What to log.
        """
        if isinstance(optim_wrapper, OptimWrapperDict):
            return self.module.train_step(data, optim_wrapper, forward=self)
        return super().train_step(data, optim_wrapper)


def wrap_data_parallel(model: nn.Module, find_unused_parameters: bool = False) -> DataParallel:
    """Average the gradients of a model over the processes.

    Args:
        model: the model, on this process's device.
        find_unused_parameters: allow parameters without a gradient.

    Returns:
        The wrapped model.
    """
    device_ids = [torch.cuda.current_device()] if torch.cuda.is_available() else None
    return DataParallel(model, device_ids=device_ids, find_unused_parameters=find_unused_parameters)


def share_buffers(model: nn.Module) -> None:
    """Give every process the buffers (batch norm statistics) of the first one, which are the ones that are saved.

    Args:
        model: the model.
    """
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def gather_from_processes(value: Any) -> list[Any]:
    """Collect a picklable value of every process, in every process.

    Args:
        value: this process's value.

    Returns:
        One value for each process, in the order of their ranks.
    """
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _translate_slurm_variables() -> None:
    """Set the variables that torchrun would set from the ones that srun sets.

    Raises:
        ValueError: srun did not set them.
    """
    missing = [name for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID") if name not in os.environ]
    if missing:
        raise ValueError(f"launcher 'slurm' needs {', '.join(missing)} in the environment; start with srun")
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]
    os.environ["LOCAL_RANK"] = os.environ["SLURM_LOCALID"]
    os.environ.setdefault("MASTER_PORT", "29500")
    if "MASTER_ADDR" not in os.environ:
        command = ["scontrol", "show", "hostnames", os.environ.get("SLURM_JOB_NODELIST", "")]
        try:
            os.environ["MASTER_ADDR"] = subprocess.run(
                command, capture_output=True, text=True, check=True
            ).stdout.split()[0]
        except (OSError, subprocess.CalledProcessError, IndexError) as error:
            raise ValueError(f"cannot tell the first node ({' '.join(command)} failed); set MASTER_ADDR") from error
