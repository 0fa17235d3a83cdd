"""Moving average of the weights."""

from collections.abc import Iterable
from typing import Any

import torch
from mmengine.hooks import EMAHook
from mmengine.model import ExponentialMovingAverage
from mmengine.runner import Runner
from torch import Tensor, nn


class AveragedModel(ExponentialMovingAverage):
    """Moves an average of all parameters at once; mmengine's own launches a kernel for each of them.

    Args:
        model: the model in training.
        momentum: weight of the newest parameters, 1 - decay.
        gamma: in step n the momentum is at least ``gamma / (gamma + n)``, so that a short run forgets its random
            start; 0 keeps it at ``momentum``.
        only: name of the part of the model that is averaged, such as ``"generator"``; the parameters of other parts
            are copied. ``None`` averages all of them.
        **kwargs: further arguments of mmengine's ``ExponentialMovingAverage``.

    Raises:
        ValueError: ``gamma`` is negative, there is no such part, or averages of buffers or at intervals are asked for.
    """

    def __init__(
        self, model: nn.Module, momentum: float = 1e-4, gamma: float = 0, only: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(model, momentum=momentum, **kwargs)
        if only is not None and only not in dict(model.named_children()):
            parts = ", ".join(name for name, _ in model.named_children())
            raise ValueError(f"EMA of only={only!r}: the model has no such part, but {parts}")
        self.only = only
        if gamma < 0:
            raise ValueError(f"gamma must not be negative, got {gamma}")
        if self.update_buffers or self.interval != 1:
            raise ValueError("EMA averages parameters only, in every iteration: leave update_buffers and interval out")
        self.gamma = gamma
        # In a tuple, or torch would take the model in training for a part of the average.
        self._pairing: tuple[nn.Module, _Pairs] | None = None

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take a step of the training into the average; buffers are copied.

        Args:
            model: the model in training.
        """
        if self._pairing is None or self._pairing[0] is not model:
            self._pairing = model, _Pairs(self.module, model, self.only)
        pairs = self._pairing[1]
        steps = int(self.steps)
        momentum = max(self.momentum, self.gamma / (self.gamma + steps)) if self.gamma else self.momentum
        if steps == 0:
            momentum = 1.0
        torch._foreach_lerp_(pairs.averages, pairs.parameters, momentum)
        if pairs.copies:
            torch._foreach_copy_(pairs.copies, pairs.copied)
        for averages, buffers in pairs.buffers():
            torch._foreach_copy_(averages, buffers)
        self.steps += 1


class _Pairs:
    """The tensors of an average beside those of its model; to collect them anew in each step would take milliseconds.

    Args:
        average: the average.
        model: the model, of the same structure.
        only: name of the part whose parameters are averaged, the others being copied; ``None`` for all.
    """

    def __init__(self, average: nn.Module, model: nn.Module, only: str | None = None) -> None:
        self.averages: list[Tensor] = []
        self.parameters: list[Tensor] = []
        self.copies: list[Tensor] = []
        self.copied: list[Tensor] = []
        for (name, ours), theirs in zip(average.named_parameters(), model.parameters(), strict=True):
            is_averaged = only is None or name.startswith(f"{only}.")
            (self.averages if is_averaged else self.copies).append(ours)
            (self.parameters if is_averaged else self.copied).append(theirs)
        # The dictionaries and not the buffers, which a module may replace.
        modules = zip(average.modules(), model.modules(), strict=True)
        self._owners = [(ours._buffers, theirs._buffers) for ours, theirs in modules if theirs._buffers]

    def buffers(self) -> Iterable[tuple[list[Tensor], list[Tensor]]]:
        """Buffers of the average and of the model, for each dtype."""
        by_dtype: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for averages, buffers in self._owners:
            for name, buffer in buffers.items():
                average = averages[name]
                if buffer is not None and average is not None:
                    ours, theirs = by_dtype.setdefault(buffer.dtype, ([], []))
                    ours.append(average)
                    theirs.append(buffer)
        return by_dtype.values()


class EMA(EMAHook):
    """Keeps a moving average of the weights, and evaluates and saves it in place of the weights in training.

    While training, validation sees the average. A checkpoint's ``state_dict`` holds the average and its
    ``ema_state_dict`` the weights in training (mmengine swaps them, so that whoever loads ``state_dict`` gets the
    better weights); ``tools/test.py --weights raw`` evaluates the latter.

    Args:
        momentum: weight of the newest parameters, 1 - decay.
        **kwargs: ``gamma`` and ``only`` of :class:`AveragedModel`, and further arguments of mmengine's ``EMAHook``.
    """

    def __init__(self, momentum: float = 1e-4, **kwargs: Any) -> None:
        average: Any = AveragedModel  # mmengine takes a class as well as its name
        super().__init__(average, strict_load=True, momentum=momentum, **kwargs)

    def before_val_epoch(self, runner: Runner) -> None:
        """Evaluate the average, and say so.

        Args:
            runner: the run.
        """
        runner.logger.info("evaluating the moving average (EMA) of the weights")
        super().before_val_epoch(runner)
