"""Layers of modules that others made, turned into ours, which compute the same faster."""

from torch import nn


def convert_layers(module: nn.Module, theirs: type[nn.Module], ours: type[nn.Module]) -> None:
    """Let the layers of exactly one type compute as another does; parameters, names and hooks stay.

    Args:
        module: changed in place.
        theirs: the type, such as ``nn.Linear``; what derives from it is left alone.
        ours: a subclass of it that differs in its forward pass only.
    """
    for layer in module.modules():
        if type(layer) is theirs:
            layer.__class__ = ours
