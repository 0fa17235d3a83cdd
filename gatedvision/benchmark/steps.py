"""A step of inference or of training of any model of images, as a call without arguments."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def inference_step(
    model: nn.Module, inputs: Sequence[Tensor], dtype: torch.dtype, compile: str | None = None
) -> Callable[[], Any]:
    """Return a forward pass in ``dtype`` throughout; the model is turned to evaluation and that dtype.

    Args:
        model: on the device of the inputs.
        inputs: of its forward pass, images ``[B, C, H, W]`` or volumes first.
        dtype: of weights and inputs.
        compile: mode of ``torch.compile``; ``None`` does not compile.
    """
    run, inputs = compiled(model.eval().to(dtype), compile), [x.to(dtype) for x in inputs]
    return torch.inference_mode()(lambda: run(*inputs))


def training_step(
    model: nn.Module, inputs: Sequence[Tensor], dtype: torch.dtype, compile: str | None = None
) -> Callable[[], None]:
    """Return a forward pass, a backward pass and AdamW on float32 weights, under autocast to ``dtype``.

    The loss is the cross entropy with random labels where the output is one tensor of scores, ``[B, K]`` or
    ``[B, K, H, W]``, or of a volume, and the mean square of all its tensors otherwise.

    Args:
        model: in float32, on the device of the inputs; it is turned to training.
        inputs: of its forward pass, images ``[B, C, H, W]`` or volumes first.
        dtype: of autocast; float32 does without, float16 has its gradients scaled.
        compile: mode of ``torch.compile``; ``None`` does not compile.
    """
    images = inputs[0]
    device = images.device.type
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-4, fused=device == "cuda")
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
    autocast = autocast_to(dtype, images.device)
    with torch.no_grad(), autocast:
        output = model(*(x[:2] for x in inputs))
    labels = None
    if isinstance(output, Tensor):
        labels = torch.randint(output.shape[1], (len(images), *output.shape[2:]), device=device)
    run = compiled(model, compile)

    def step() -> None:
        with autocast:
            loss = _loss(run(*inputs), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        # Between steps no memory is taken that other models could use.
        optimizer.zero_grad()

    return step


def autocast_to(dtype: torch.dtype, device: torch.device, cache_enabled: bool = True) -> torch.autocast:
    """Return the context in which products run in ``dtype``; float32 changes nothing.

    Args:
        dtype: of products.
        device: on which they run.
        cache_enabled: keep weights that were cast.
    """
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32, cache_enabled=cache_enabled)


def tensors_of(output: Any) -> list[Tensor]:
    """Return the floating tensors of nested tuples, lists and dictionaries, in order."""
    return [x for x in tree_leaves(output) if isinstance(x, Tensor) and x.is_floating_point()]


def _loss(output: Any, labels: Tensor | None) -> Tensor:
    if labels is not None:
        return F.cross_entropy(output, labels)
    return torch.stack([x.float().square().mean() for x in tensors_of(output)]).sum()


def compiled(call: Callable[..., Any], mode: str | None) -> Callable[..., Any]:
    """Compile a call, for each shape of its own, as it would be in a user's run; without a mode return it as it is."""
    return torch.compile(call, mode=mode, dynamic=False) if mode else call
