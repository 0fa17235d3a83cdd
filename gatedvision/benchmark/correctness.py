"""What is wrong is not timed."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Largest root mean square of the error, relative to that of the right values.
ERROR_LIMITS = {torch.bfloat16: 1e-2, torch.float16: 5e-3, torch.float32: 1e-5}


def check_errors(names: Sequence[str], actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Compare tensors with the right ones.

    Args:
        names: what they are.
        actual: tensors of one dtype.
        expected: the right ones, in float64.

    Returns:
        The relative error of the first.

    Raises:
        ValueError: an error is above the limit of the dtype.
    """
    errors = [relative_error(found, right) for found, right in zip(actual, expected, strict=True)]
    limit = ERROR_LIMITS[actual[0].dtype]
    for name, error in zip(names, errors, strict=True):
        # A NaN is above every limit.
        if not error <= limit:
            raise ValueError(f"not timed, {name} is wrong: relative error {error:.2g}, limit {limit:g}")
    return errors[0]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the root mean square of the error, relative to that of the right values, in float64."""
    error, size = (x.square().mean().sqrt().item() for x in (actual.double() - expected, expected))
    # The gates of a single token have no effect.
    return error / size if size else error


def check_outputs(name: str, actual: Sequence[Tensor], expected: Sequence[Tensor], limit: float) -> float:
    """Compare what a model gives with what it should give.

    Args:
        name: what is compared, for the message.
        actual: its tensors.
        expected: the right ones, on any device.
        limit: largest root mean square of the error, relative to that of the right values.

    Returns:
        The largest relative error.

    Raises:
        ValueError: it is above the limit, or there is nothing to compare.
    """
    errors = [relative_error(x, y.to(x.device, torch.float64)) for x, y in zip(actual, expected, strict=True)]
    if not errors:
        raise ValueError(f"not timed, {name} gives no floating tensors to compare")
    for error in errors:
        # A NaN is above every limit.
        if not error <= limit:
            raise ValueError(f"not timed, {name} is wrong: relative error {error:.2g}, limit {limit:g}")
    return max(errors)


def fill_constants(model: nn.Module) -> None:
    """Draw anew the parameters that start as one number near 0: layer scales, biases, some last layers.

    As they are, they hide what stands before them, its faults included.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() and parameter.abs().max() < 0.1 and parameter.min() == parameter.max():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def settle_norms(model: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Let batch norms take the statistics of these images, without which deep models with random weights overflow.

    Args:
        model: it is turned to evaluation.
        inputs: of its forward pass, two images or more.
    """
    model.eval()
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        # The average of all passes, of which there is one.
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        model(*inputs)
    model.eval()
