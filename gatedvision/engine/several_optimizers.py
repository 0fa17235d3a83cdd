"""Models whose parts have optimizers of their own, such as a generator and its discriminator.

Their config is ``optim_wrapper = dict(<part>=dict(optimizer=...), <other part>=dict(optimizer=...))``.
"""

from collections.abc import Mapping
from typing import Any

from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn


class Optimizers(OptimWrapperDict):
    """mmengine's wrapper of several optimizers, which accumulate gradients and resume like a single one."""

    def initialize_count_status(self, model: nn.Module, cur_iter: int, max_iters: int) -> None:
        """Tell each optimizer where the training stands.

        Args:
            model: the model in training.
            cur_iter: finished iterations.
            max_iters: iterations of the whole training.
        """
        for wrapper in self.values():
            wrapper.initialize_count_status(model, cur_iter, max_iters)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the states of all optimizers.

        Args:
            state_dict: what ``state_dict`` returned.

        Raises:
            ValueError: it is of other parts.
        """
        if set(state_dict) != set(self.keys()):
            saved, own = ", ".join(state_dict), ", ".join(self.keys())
            raise ValueError(f"the state is of optimizers {saved}, the run has {own}")
        super().load_state_dict(state_dict)


def has_several(optim_wrapper: Any) -> bool:
    """Tell whether a config, or what was built from it, is of several optimizers.

    Args:
        optim_wrapper: the config's ``optim_wrapper``; ``None`` where nothing is trained.
    """
    if isinstance(optim_wrapper, Mapping):
        return not {"optimizer", "type", "constructor"} & set(optim_wrapper)
    return isinstance(optim_wrapper, OptimWrapperDict)


def each_optimizer(optim_wrapper: Any) -> dict[str, OptimWrapper]:
    """The optimizers by the names of their parts; a single one goes without a name.

    Args:
        optim_wrapper: a wrapper of one or several optimizers.
    """
    return dict(optim_wrapper.items()) if isinstance(optim_wrapper, OptimWrapperDict) else {"": optim_wrapper}
