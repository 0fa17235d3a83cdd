"""The least time that a device needs for the products and convolutions of a whole model."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from gatedvision.benchmark.roofline import Peaks, Work, find_floor

# A backward pass has two products for each of the forward pass.
PASSES = {"inference": 1, "training": 3}


def count_model_work(model: nn.Module, inputs: Sequence[Tensor], dtype: torch.dtype) -> list[Work]:
    """Count each product and convolution of a forward pass, without computing them.

    Where a weight takes part, its map is read, its result written and the weight read, once and in ``dtype``; products
    of maps with maps, as in attention, can be fused and count without memory, and so does all that lies between
    products. Bidirectional gated linear attention counts as the recurrence that it is.

    Args:
        model: on any device; it stays as it is.
        inputs: of its forward pass; only their shapes matter.
        dtype: of maps and weights.
    """
    shadow = copy.deepcopy(model).to(device="meta", dtype=dtype).eval().requires_grad_(False)
    counter = _Counter(shadow)
    # Inference mode would hand over linear layers and convolutions before they are taken apart.
    with torch.no_grad(), counter:
        shadow(*(x.to("meta", dtype) for x in inputs))
    return counter.found


def model_floor(works: Sequence[Work], peaks: Peaks, mode: str) -> float:
    """Return the sum of the floors of all that was counted, ms.

    Args:
        works: of :func:`count_model_work`.
        peaks: what the device reaches.
        mode: ``"inference"``, or ``"training"``, which takes three times as much.
    """
    return PASSES[mode] * sum(find_floor(work, peaks)[0] for work in works)


class _Counter(TorchDispatchMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: list[Work] = []
        self._weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet not in flop_registry:
            with self:
                result = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if result is NotImplemented else result
        result = func(*args, **kwargs)
        macs = flop_registry[packet](*args, **kwargs, out_val=result) // 2
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        has_weight = any(x.untyped_storage()._cdata in self._weights for x in inputs)
        maps = [*inputs, *(x for x in tree_leaves(result) if isinstance(x, Tensor))] if has_weight else []
        memory = sum(x.numel() * x.element_size() for x in maps)
        is_depthwise = packet is torch.ops.aten.convolution and inputs[1].shape[1] == 1 < inputs[0].shape[1]
        self.found.append(Work(memory, 0, macs) if is_depthwise else Work(memory, macs, 0))
        return result
