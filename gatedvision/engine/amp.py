"""Mixed precision: bfloat16 on CPUs and GPUs, float16 with loss scaling on GPUs."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from gatedvision.engine.several_optimizers import each_optimizer
from gatedvision.engine.step_numbers import LateNumber, mark

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_amp(amp: str | None) -> None:
    """Refuse a precision that does not exist or that this machine cannot train in.

    Args:
        amp: ``"bf16"``, ``"fp16"`` or ``None`` for full precision.

    Raises:
        ValueError: another name, ``"fp16"`` without a GPU, or ``"bf16"`` on a GPU that lacks it.
    """
    if amp is None:
        return
    if amp not in AMP_DTYPES:
        raise ValueError(f"amp must be one of {', '.join(AMP_DTYPES)} or None, got {amp!r}")
    if amp == "fp16" and not torch.cuda.is_available():
        raise ValueError("amp fp16 needs a GPU, and none is visible; use bf16, which CPUs have too")
    if amp == "bf16" and torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
        raise ValueError(f"{torch.cuda.get_device_name()} has no bfloat16; use fp16")


def autocast(amp: str | None) -> AbstractContextManager[Any]:
    """Context in which matrix products and convolutions run in the given precision.

    Args:
        amp: ``"bf16"``, ``"fp16"`` or ``None``, which changes nothing.
    """
    return nullcontext() if amp is None else torch.autocast(get_device(), AMP_DTYPES[amp])


class AmpOptimWrapper(OptimWrapper):
    """An optimizer step whose forward pass runs under :func:`autocast`.

    float16 has too small a range for gradients, so there the loss is scaled, and steps whose gradients overflow are
    left out. bfloat16 has the range of float32 and needs nothing of the kind.

    Args:
        amp: ``"bf16"``, ``"fp16"`` or ``None``.
        **kwargs: arguments of mmengine's ``OptimWrapper``: ``optimizer``, ``clip_grad``, ``accumulative_counts``.

    Attributes:
        forward_done: what the GPU had been told when the last backward pass began.
    """

    def __init__(self, amp: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_amp(amp)
        self.amp = amp
        self.scaler = torch.amp.GradScaler(get_device(), enabled=amp == "fp16")
        self._grad_norm: Tensor | None = None
        self._late_norm: LateNumber | None = None
        self.forward_done: torch.cuda.Event | None = None

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Context of the forward pass.

        Args:
            model: the model in training.
        """
        with super().optim_context(model), autocast(self.amp):
            yield

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Compute gradients, of the scaled loss where there is a scale.

        Args:
            loss: scalar.
            **kwargs: arguments of ``Tensor.backward``.
        """
        self.forward_done = mark(loss)
        super().backward(self.scaler.scale(loss), **kwargs)

    def step(self, **kwargs: Any) -> None:
        """Clip the gradients, keep their norm for :meth:`take_grad_norm`, and update the parameters.

        Args:
            **kwargs: arguments of the optimizer's ``step``.
        """
        self.scaler.unscale_(self.optimizer)
        if self.clip_grad_kwargs:
            self._clip_grad()
        self.scaler.step(self.optimizer, **kwargs)
        self.scaler.update()

    def take_grad_norm(self) -> float | None:
        """Norm of the gradients, before clipping, of a step since the last call; ``None`` if there was none.

        Nothing waits for a GPU: from there, it is the norm of the step before. mmengine would wait before each update
        of the parameters.
        """
        norm, self._grad_norm = self._grad_norm, None
        if norm is None:
            return None
        if not norm.is_cuda:
            return norm.item()
        arrived, self._late_norm = self._late_norm, LateNumber(norm)
        return None if arrived is None else arrived.read()

    def take_last_grad_norm(self) -> float | None:
        """Wait for the norm that :meth:`take_grad_norm` still owes; ``None`` if that is none."""
        late, self._late_norm = self._late_norm, None
        return None if late is None else late.read()

    def _clip_grad(self) -> None:
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if parameters:
            clip: Any = self.clip_func
            self._grad_norm = clip(parameters, **(self.clip_grad_kwargs or {}))

    def state_dict(self) -> dict[str, Any]:
        """State of the optimizer and of the loss scale."""
        return {**super().state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of the optimizer and of the loss scale.

        Args:
            state_dict: what :meth:`state_dict` returned, in this or another precision.
        """
        optimizer_state = dict(state_dict)
        scaler_state = optimizer_state.pop("scaler", None)
        if scaler_state and self.scaler.is_enabled():
            self.scaler.load_state_dict(scaler_state)
        super().load_state_dict(optimizer_state)


def log_grad_norms(runner: Runner, last: bool = False) -> None:
    """Add the norms of gradients that are known to the run's history.

    Args:
        runner: the run.
        last: those that are still on their way, for which this waits, as before a checkpoint with the history.
    """
    for part, wrapper in each_optimizer(runner.optim_wrapper).items():
        if isinstance(wrapper, AmpOptimWrapper):
            norm = wrapper.take_last_grad_norm() if last else wrapper.take_grad_norm()
            if norm is not None:
                runner.message_hub.update_scalar(f"train/{part}{'.' if part else ''}grad_norm", norm)
