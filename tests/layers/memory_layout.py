"""Watch the memory layout of what the modules of a network return."""

from typing import Any

import torch
from torch import Tensor, nn


def channels_last_outputs(model: nn.Module, spatial_dims: int, *args: Any, **kwargs: Any) -> dict[str, bool]:
    """Run a network channels-last, and return for each module's output whether it is so, too.

    Convolutions are made to return what they do on a GPU: on a CPU their layout depends on the number of threads.
    """
    layout = torch.channels_last if spatial_dims == 2 else torch.channels_last_3d
    found: dict[str, bool] = {}

    def to_layout(value: Any) -> Any:
        return value.to(memory_format=layout) if isinstance(value, Tensor) and value.ndim == spatial_dims + 2 else value

    def watch(name: str, module: nn.Module) -> None:
        def hook(_module: nn.Module, _inputs: Any, y: Any) -> Any:
            if isinstance(module, nn.modules.conv._ConvNd):
                return to_layout(y)
            if isinstance(y, Tensor) and y.ndim == spatial_dims + 2:
                found[name] = y.is_contiguous(memory_format=layout)
            return None

        module.register_forward_hook(hook)

    for name, module in model.to(memory_format=layout).named_modules():
        watch(name, module)
    model(*map(to_layout, args), **{name: to_layout(value) for name, value in kwargs.items()})
    return found
