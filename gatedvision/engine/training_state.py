"""Everything a run needs to go on as if nothing had happened, as tensors and plain values."""

import time
from typing import Any

import mmengine
import numpy as np
import timm
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from gatedvision.engine.amp import log_grad_norms
from gatedvision.engine.distributed import gather_from_processes
from gatedvision.engine.random_state import capture_random_state, restore_random_state


def unwrap(model: nn.Module) -> Any:
    """The task model inside a data-parallel wrapper, or the model itself.

    Args:
        model: either of them.
    """
    return model.module if is_model_wrapper(model) else model


def capture_training_state(runner: Runner, epoch: int, iteration: int, with_optimizer: bool) -> dict[str, Any] | None:
    """Collect a checkpoint. All processes have to call this together.

    Args:
        runner: the run.
        epoch: finished epochs.
        iteration: finished iterations, counted from the start of the training.
        with_optimizer: include what only a resumed run needs.

    Returns:
        The checkpoint in the main process, ``None`` in the others.
    """
    training: Any = runner
    processes = gather_from_processes(_capture_process_state(runner)) if with_optimizer else []
    # Where experts are spread, all processes have something to save.
    if runner.rank != 0 and training.experts.size == 1:
        return None
    checkpoint: dict[str, Any] = {
        "meta": {
            "epoch": epoch,
            "iter": iteration,
            "seed": runner.seed,
            "world_size": runner.world_size,
            "expert_parallel": training.experts.size,
            "iters_per_epoch": len(runner.train_dataloader),
            "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            "cfg": runner.cfg.pretty_text,
            "versions": {"torch": torch.__version__, "timm": timm.__version__, "mmengine": mmengine.__version__},
        },
        "state_dict": dict(unwrap(runner.model).state_dict()),
    }
    if with_optimizer:
        checkpoint["optimizer"] = training.optim_wrapper.state_dict()
        checkpoint["param_schedulers"] = [scheduler.state_dict() for scheduler in all_schedulers(runner)]
        log_grad_norms(runner, last=True)
        checkpoint["message_hub"] = runner.message_hub.state_dict()
        checkpoint["processes"] = processes
    # EMAHook adds the average here, and puts it in the place of the weights.
    runner.call_hook("before_save_checkpoint", checkpoint=checkpoint)
    checkpoint = training.experts.join_checkpoint(checkpoint, training.optim_wrapper)
    return to_plain(checkpoint) if runner.rank == 0 else None


def all_schedulers(runner: Runner) -> list[Any]:
    """The schedulers of a run; with several optimizers, of one after the other.

    Args:
        runner: the run.
    """
    schedulers: Any = runner.param_schedulers or ()
    return [item for part in schedulers.values() for item in part] if isinstance(schedulers, dict) else [*schedulers]


def restore_process_state(runner: Runner, state: dict[str, Any]) -> None:
    """Put this process's random number generators and accumulated gradients back.

    Args:
        runner: the run.
        state: this process's entry of ``processes`` in a checkpoint.
    """
    restore_random_state(state["random"])
    model = unwrap(runner.model)
    for name, gradient in state["gradients"].items():
        parameter = model.get_parameter(name)
        parameter.grad = gradient.to(parameter.device)


def _capture_process_state(runner: Runner) -> dict[str, Any]:
    # There are gradients only between two steps of an optimizer that accumulates them.
    parameters = unwrap(runner.model).named_parameters()
    gradients = {name: parameter.grad.cpu() for name, parameter in parameters if parameter.grad is not None}
    return {"random": capture_random_state(), "gradients": gradients}


def to_plain(value: Any) -> Any:
    """Replace what ``torch.load`` does not trust: NumPy values, histories, subclasses of dict, str and tuple.

    Args:
        value: any nesting of dictionaries, lists and tuples.

    Returns:
        The same, of tensors on the CPU and plain Python values; an object of another kind becomes its text.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, HistoryBuffer):
        log, count = value.data
        return {"log": torch.tensor(log), "count": torch.tensor(count), "max_length": value.max_length}
    if isinstance(value, dict):
        return {to_plain(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [to_plain(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, np.ndarray):
        return torch.tensor(value)
    if isinstance(value, np.generic):
        return value.item()
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    return str(value)


def restore_histories(message_hub: dict[str, Any]) -> dict[str, Any]:
    """Turn the saved scalars back into mmengine's histories.

    Args:
        message_hub: the entry ``message_hub`` of a checkpoint.

    Returns:
        What mmengine's ``MessageHub.load_state_dict`` expects.
    """
    histories = {
        name: HistoryBuffer(saved["log"].numpy(), saved["count"].numpy(), saved["max_length"])
        for name, saved in message_hub["log_scalars"].items()
    }
    return {**message_hub, "log_scalars": histories}


def is_finite(state_dict: dict[str, Tensor]) -> bool:
    """Tell whether no weight is infinite or NaN.

    Args:
        state_dict: weights by name.
    """
    return all(bool(torch.isfinite(weight).all()) for weight in state_dict.values() if weight.is_floating_point())
