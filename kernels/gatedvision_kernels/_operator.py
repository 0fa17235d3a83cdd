"""Custom operators into which compilers can look, down to the launches of their kernels.

To ``torch.compile`` a custom operator is a call back into Python, which costs the host several times what a launch
from compiled code does. So the operators here come apart while a graph is made functional: what is left are the
kernels, launched by the compiled code itself, and operations of torch, which the compiler fuses.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import SymInt, Tensor
from torch._subclasses.functional_tensor import FunctionalTensorMode
from torch.library import CustomOpDef
from torch.utils._pytree import tree_leaves

from gatedvision_kernels._dispatch import interpreting
from gatedvision_kernels._triton import triton

_coming_apart: ContextVar[bool] = ContextVar("coming_apart", default=False)


def custom_op(
    name: str, run: Callable[..., Any], schema: str, *, whole: bool | Callable[..., bool] = False
) -> CustomOpDef:
    """Make a function that launches kernels an operator of torch.

    It stays whole in programs that ``torch.export`` records, which are to outlast these kernels, and where a size is
    left open: how maps are cut is worked out in numbers.

    Args:
        name: of the operator, in the namespace ``gatedvision``.
        run: the function; changes none of its arguments and launches through :func:`launcher`.
        schema: its arguments and results, spelled out because older releases of torch cannot infer them from
            postponed annotations.
        whole: never take it apart, or tell of arguments, which have sizes but no values, whether not to. A compiler
            reads the code of a kernel several times over for each call, to see which arguments it writes to; of a
            kernel of many unrolled steps that takes longer than all the rest. And it cannot limit their registers.
    """
    operator = torch.library.custom_op(f"gatedvision::{name}", run, mutates_args=(), schema=schema)
    if triton is not None and not interpreting() and whole is not True:
        operator.register_torch_dispatch(FunctionalTensorMode, partial(_take_apart, run, whole or _never))
    return operator


def _never(*args: Any, **kwargs: Any) -> bool:
    return False


def compiled_away() -> bool:
    """Tell whether launches are recorded for compiled code, which knows no limit of registers (``maxnreg``)."""
    return _coming_apart.get()


def launcher(kernel: Any) -> Any:
    """Return what launches a kernel here: itself, or what records the launch in the graph that is being made."""
    return torch.library.wrap_triton(kernel) if compiled_away() else kernel


def _take_apart(
    run: Callable[..., Any],
    stays_whole: Callable[..., bool],
    mode: FunctionalTensorMode,
    operator: Any,
    types: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
) -> Any:
    sizes = [size for x in tree_leaves(args) if isinstance(x, Tensor) for size in x.shape]
    kwargs = kwargs or {}
    if mode.export or any(isinstance(size, SymInt) for size in sizes) or stays_whole(*args, **kwargs):
        return mode.__torch_dispatch__(operator, types, args, kwargs)
    token = _coming_apart.set(True)
    try:
        with mode:
            return run(*args, **kwargs)
    finally:
        _coming_apart.reset(token)
