"""Kernel or reference? One answer for every operator."""

import os

import torch
from torch import Tensor

from gatedvision_kernels._triton import triton

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
INDEX_DTYPES = (torch.int32, torch.int64)
# The compiler of Triton 3.2 (torch 2.6) dies on products of 16 rows and takes the process with it.
OLDEST_TRITON = (3, 3)
TRITON = tuple(int(part) for part in triton.__version__.split(".")[:2]) if triton else (0, 0)


def interpreting() -> bool:
    """Tell whether Triton runs its kernels on the CPU (``TRITON_INTERPRET=1``)."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def use_triton(backend: str, *tensors: Tensor, indices: tuple[Tensor, ...] = ()) -> bool:
    """Decide whether an operator launches its Triton kernels.

    Args:
        backend: ``"auto"`` takes the kernels when Triton is there and recent and every tensor lies on a
            GPU in a dtype they support, and the reference otherwise; ``"triton"`` and ``"reference"``
            are orders.
        *tensors: all tensor arguments of the operator.
        indices: and those that hold integers, which kernels take as they are.

    Returns:
        True for the kernels, False for the reference.

    Raises:
        ValueError: for an unknown backend, or if the kernels are asked for and cannot run.
    """
    if backend == "reference":
        return False
    if backend not in ("auto", "triton"):
        raise ValueError(f"backend must be 'auto', 'triton' or 'reference', got {backend!r}")
    placed = tensors + indices
    obstacle = _obstacle(tensors, placed)
    # The interpreter is for tests that name the kernel; "auto" on a CPU means the reference.
    if backend == "auto":
        return obstacle is None and all(t.is_cuda for t in placed)
    if obstacle is not None:
        raise ValueError(f"backend='triton' cannot run: {obstacle}; use backend='auto'")
    return True


def _obstacle(tensors: tuple[Tensor, ...], placed: tuple[Tensor, ...]) -> str | None:
    """Say what keeps the kernels from running, if anything does: dtypes of ``tensors``, or places of ``placed``."""
    if triton is None:
        return "triton is not installed"
    if TRITON < OLDEST_TRITON:
        return f"triton {TRITON[0]}.{TRITON[1]} is too old, the kernels need 3.3 (which comes with torch 2.7)"
    if not all(t.is_cuda for t in placed) and not (interpreting() and all(t.device.type == "cpu" for t in placed)):
        devices = sorted({t.device.type for t in placed})
        return f"tensors lie on {devices}, not on cuda"
    unsupported = sorted({str(t.dtype) for t in tensors if t.dtype not in KERNEL_DTYPES})
    if unsupported:
        return f"dtypes {unsupported} are not among {[str(d) for d in KERNEL_DTYPES]}"
    return None
