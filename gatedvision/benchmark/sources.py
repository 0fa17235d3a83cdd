"""Find and build what a command line names: ``vig_s``, ``vig_s(drop_path_rate=0.1)`` or ``module:callable``."""

import ast
import copy
import importlib
from collections.abc import Sequence
from functools import reduce
from typing import Any

import timm
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import gatedvision
from gatedvision.benchmark.timing import note


def expand_names(names: Sequence[str]) -> list[str]:
    """Replace names with ``*`` or ``?`` by those of this package's models that they match; each is named once.

    Raises:
        ValueError: one matches nothing.
    """
    found: list[str] = []
    for name in names:
        is_pattern = ("*" in name or "?" in name) and "(" not in name
        matches = gatedvision.list_models(name) if is_pattern else [name]
        if not matches:
            raise ValueError(f"no model of gatedvision matches {name!r}: gatedvision.list_models() has the known ones")
        found += matches
    return list(dict.fromkeys(found))


def create_model(source: str, img_size: int | None = None) -> nn.Module:
    """Build a model with random weights.

    Args:
        source: a name of timm's, or ``module:callable`` for anything that can be imported and returns a module;
            keyword arguments may follow in brackets, as in ``torchvision.models:resnet50(num_classes=10)``.
        img_size: side of the images, pixels; the model's own by default. It is passed on to those of timm's models that
            are made for one size.

    Raises:
        ValueError: nothing has that name, or the arguments cannot be read.
        TypeError: what the callable returns is no module.
    """
    name, arguments = _split(source)
    build: Any
    module, colon, path = name.partition(":")
    if colon:
        try:
            build = reduce(getattr, path.split("."), importlib.import_module(module))
        except (ImportError, AttributeError) as error:
            raise ValueError(f"cannot import {name!r}: {error}") from error
    else:
        build, arguments = timm.create_model, {**_timm_arguments(name, img_size), **arguments}
    try:
        model = build(**arguments)
    except Exception as error:  # whatever a constructor raises over its arguments
        size = f" for {img_size} pixels" if img_size else ""
        raise ValueError(f"cannot build {source!r}{size}: {' '.join(str(error).split())}") from error
    if not isinstance(model, nn.Module):
        raise TypeError(f"{source!r} makes a {type(model).__name__}, which is no torch.nn.Module")
    return model


def count_macs(model: nn.Module, inputs: Sequence[Tensor]) -> int | None:
    """Count multiply-adds as :func:`count_batch_macs` does, where that is possible.

    Args:
        model: on any device; it stays as it is.
        inputs: of its forward pass.

    Returns:
        The number, or ``None`` for a model that cannot run without data.
    """
    try:
        return count_batch_macs(model, inputs)
    except Exception as error:  # whatever a model does with numbers that are not there
        note(f"GMACs of {type(model).__name__}", error)
        return None


def count_batch_macs(model: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Count the multiply-adds of convolutions and matrix products for a batch, without computing them.

    Bidirectional gated linear attention counts as the recurrence that it is.

    Args:
        model: on any device; it stays as it is.
        inputs: of its forward pass; only their shapes matter.
    """
    shadow = copy.deepcopy(model).to("meta").eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        shadow(*(x.to("meta") for x in inputs))
    return counter.get_total_flops() // 2


def _split(source: str) -> tuple[str, dict[str, Any]]:
    name, bracket, rest = source.partition("(")
    if not bracket:
        return name, {}
    try:
        call: Any = ast.parse(f"_({rest}", mode="eval").body
        # Nothing may follow the call, and nothing stand in it but keywords.
        if call.func.id != "_" or call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError
        return name, {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (AttributeError, SyntaxError, ValueError):
        raise ValueError(
            f"cannot read {source!r}: arguments are keywords with plain values, as in 'vig_s(drop_path_rate=0.1)'"
        ) from None


def _timm_arguments(name: str, img_size: int | None) -> dict[str, Any]:
    if not timm.is_model(name):
        raise ValueError(f"unknown model {name!r}: timm.list_models() has the known ones, others are module:callable")
    config = timm.get_pretrained_cfg(name)
    # Only models with a fixed grid of patches are built for a size; others take any, or say so.
    fixed = config is not None and config.fixed_input_size
    return {"model_name": name, "in_chans": 3, **({"img_size": img_size} if fixed and img_size else {})}
