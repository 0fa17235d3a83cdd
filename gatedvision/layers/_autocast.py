"""What autocast says for a tensor, on the meta device too, which knows none."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which autocast leaves the dtype of operations on ``x`` alone."""
    # Programs that torch.export records would keep autocast's, so it is entered only where it changes something.
    if x.is_meta or not torch.is_autocast_enabled(x.device.type):
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Return in which dtype autocast, where it is on, would take a product with a tensor."""
    if x.is_meta or not torch.is_autocast_enabled(x.device.type):
        return x.dtype
    return torch.get_autocast_dtype(x.device.type)


def to_autocast_dtype(x: Tensor) -> Tensor:
    """Round a tensor as autocast, where it is on, would before a product."""
    return x.to(autocast_dtype(x))
