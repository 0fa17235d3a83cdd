"""Computing again in the backward pass of compiled training what would have been kept for it."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gatedvision.layers._exporting import is_exporting


def recompute_if_compiled(function: Callable[..., Tensor], *maps: Tensor) -> Tensor:
    """Call a function of maps; in compiled training only the maps are kept, and the call is repeated.

    Not compiled, the second run would cost the host as much as the first. The function must not draw random numbers.
    """
    if torch.compiler.is_compiling() and torch.is_grad_enabled() and not is_exporting():
        return checkpoint(function, *maps, use_reentrant=False, preserve_rng_state=False)
    return function(*maps)
