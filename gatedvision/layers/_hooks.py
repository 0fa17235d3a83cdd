"""Modules that have to be called, even where their parameters alone would do."""

from torch import nn

from gatedvision.layers.linear import Linear


def has_hooks(module: nn.Module) -> bool:
    """Tell whether something waits for a module to be called."""
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return any(getattr(module, kind) for kind in kinds)


def are_plain(*layers: nn.Module) -> bool:
    """Tell whether linear layers may be left out for an operator that takes their parameters.

    Not if one was replaced, as adapters, quantizers and parametrizations do, or has hooks.
    """
    return all(type(layer) in (Linear, nn.Linear) and not has_hooks(layer) for layer in layers)
