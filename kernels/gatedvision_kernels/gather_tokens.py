"""Tokens gathered into a packed sequence, and scattered back to a grid, some of them to several cells of it.

Both copy rows::

    gather:   y[m] = x[index[m]]            0 where index[m] is negative
    scatter:  y[q] = rows[source[q]]        0 where source[q] is negative

Rows that nothing reads are left out; their gradient is 0. The inverse maps, by which kernels sum gradients without two
programs writing to one row, come with the arguments: ``place`` says where a token went, ``cells`` where copies of a row
did. Vision transformers on tokens of two scales (MSViT, arXiv:2307.02321) gather the tokens that are active in each
image, whose numbers differ, and scatter a coarse token to all cells it covers.

Shapes: T tokens (all leading axes together), M packed rows, Q cells of all images, K copies of a row at most, C
channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gatedvision_kernels._dispatch import INDEX_DTYPES, use_triton
from gatedvision_kernels._operator import custom_op
from gatedvision_kernels._slot_rows import rows_by_slot, rows_by_token
from gatedvision_kernels._two_ways import two_ways


def gather_tokens(x: Tensor, index: Tensor, place: Tensor, *, backend: str = "auto") -> Tensor:
    """Gather tokens into packed rows.

    Args:
        x: ``[..., C]``, T tokens.
        index: ``[M]`` integers: the token of each packed row, 0 to T - 1, no token twice; negative for a row of zeros.
        place: ``[...]`` integers, leading axes of ``x``: the packed row of each token, negative for those left out.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        ``[M, C]`` in the dtype of ``x``.

    Raises:
        ValueError: if shapes or dtypes do not fit, or the backend cannot run on these tensors.
    """
    if x.ndim == 0 or x.shape[-1] == 0 or index.ndim != 1 or place.shape != x.shape[:-1]:
        raise ValueError(
            f"x must be [..., C], C > 0, index [M] and place the leading axes of x; got {tuple(x.shape)}, "
            f"{tuple(index.shape)} and {tuple(place.shape)}"
        )
    _check_maps(x, {"index": index, "place": place})
    if use_triton(backend, x):
        return _gather(x, index, place)
    return gather_tokens_reference(x, index, place)


def gather_tokens_reference(x: Tensor, index: Tensor, place: Tensor) -> Tensor:
    """Define :func:`gather_tokens` in plain torch, on any device; ``place`` is of no account."""
    rows = x.reshape(-1, x.shape[-1])
    # What has no token takes a row of zeros behind the last one.
    rows = torch.cat([rows, rows.new_zeros((1, rows.shape[1]))])
    return rows.index_select(0, torch.where(index < 0, rows.shape[0] - 1, index))


def scatter_tokens(rows: Tensor, source: Tensor, cells: Tensor, *, backend: str = "auto") -> Tensor:
    """Copy packed rows to the cells they cover.

    Args:
        rows: ``[M, C]``.
        source: ``[...]`` integers: the packed row of each of Q cells, 0 to M - 1; negative for a cell of zeros.
        cells: ``[M, K]`` integers: the cells of each row, 0 to Q - 1, negative for those it does not have.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``.

    Returns:
        ``[..., C]``, leading axes of ``source``, in the dtype of ``rows``.

    Raises:
        ValueError: if shapes or dtypes do not fit, or the backend cannot run on these tensors.
    """
    fits = rows.ndim == 2 and cells.ndim == 2 and rows.shape[0] == cells.shape[0]
    if not fits or rows.shape[1] == 0 or cells.shape[1] == 0:
        raise ValueError(
            f"rows must be [M, C], C > 0, and cells [M, K], K > 0; got {tuple(rows.shape)} and {tuple(cells.shape)}"
        )
    _check_maps(rows, {"source": source, "cells": cells})
    if use_triton(backend, rows):
        return _scatter(rows, source, cells)
    return scatter_tokens_reference(rows, source, cells)


def scatter_tokens_reference(rows: Tensor, source: Tensor, cells: Tensor) -> Tensor:
    """Define :func:`scatter_tokens` in plain torch, on any device; ``cells`` is of no account."""
    padded = torch.cat([rows, rows.new_zeros((1, rows.shape[1]))])
    flat = source.reshape(-1)
    y = padded.index_select(0, torch.where(flat < 0, rows.shape[0], flat))
    return y.view(source.shape + (rows.shape[1],))


def _check_maps(x: Tensor, maps: dict[str, Tensor]) -> None:
    """Check the maps between tokens and rows.

    Raises:
        ValueError: if a tensor is of the wrong dtype or on another device.
    """
    if not x.is_floating_point():
        raise ValueError(f"tokens must be floating point, got {x.dtype}")
    for name, index in maps.items():
        if index.dtype not in INDEX_DTYPES:
            raise ValueError(f"{name} must be int32 or int64, got {index.dtype}")
        if index.device != x.device:
            raise ValueError(f"tokens lie on {x.device}, {name} on {index.device}")


def _gather_forward(x: Tensor, index: Tensor, place: Tensor) -> Tensor:
    return rows_by_slot(x.reshape(-1, x.shape[-1]), index, 1)


def _gather_backward(grad_y: Tensor, place: Tensor) -> Tensor:
    grad_x = rows_by_token(grad_y, place.reshape(-1, 1))
    return grad_x.view(*place.shape, grad_y.shape[-1])


def _scatter_forward(rows: Tensor, source: Tensor, cells: Tensor) -> Tensor:
    return rows_by_slot(rows, source.reshape(-1), 1).view(*source.shape, rows.shape[1])


def _scatter_backward(grad_y: Tensor, cells: Tensor) -> Tensor:
    return rows_by_token(grad_y.reshape(-1, grad_y.shape[-1]), cells)


_gather_tokens = custom_op("gather_tokens", _gather_forward, schema="(Tensor x, Tensor index, Tensor place) -> Tensor")
_gather_tokens_backward = custom_op(
    "gather_tokens_backward", _gather_backward, schema="(Tensor grad_y, Tensor place) -> Tensor"
)
_scatter_tokens = custom_op(
    "scatter_tokens", _scatter_forward, schema="(Tensor rows, Tensor source, Tensor cells) -> Tensor"
)
_scatter_tokens_backward = custom_op(
    "scatter_tokens_backward", _scatter_backward, schema="(Tensor grad_y, Tensor cells) -> Tensor"
)


@_gather_tokens.register_fake
def _(x: Tensor, index: Tensor, place: Tensor) -> Tensor:
    return x.new_empty((index.shape[0], x.shape[-1]))


@_gather_tokens_backward.register_fake
def _(grad_y: Tensor, place: Tensor) -> Tensor:
    return grad_y.new_empty((*place.shape, grad_y.shape[-1]))


@_scatter_tokens.register_fake
def _(rows: Tensor, source: Tensor, cells: Tensor) -> Tensor:
    return rows.new_empty((*source.shape, rows.shape[1]))


@_scatter_tokens_backward.register_fake
def _(grad_y: Tensor, cells: Tensor) -> Tensor:
    return grad_y.new_empty((cells.shape[0], grad_y.shape[-1]))


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[2])


def _differentiate(backward: Callable[..., Tensor], ctx: Any, grad_y: Tensor) -> tuple[Tensor, None, None]:
    return backward(grad_y, *ctx.saved_tensors), None, None


_gather = two_ways(_gather_tokens, _gather_forward, _gather_tokens_backward, _gather_backward, _save, _differentiate)
_scatter = two_ways(
    _scatter_tokens, _scatter_forward, _scatter_tokens_backward, _scatter_backward, _save, _differentiate
)
