"""Launch where the tensors are: Triton launches on the current GPU, which need not be theirs."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def on_device_of(x: Tensor) -> AbstractContextManager:
    """Return a context in which the GPU of ``x`` is the current one; entering it costs nothing where it already is."""
    if not x.is_cuda or x.device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(x.device)
