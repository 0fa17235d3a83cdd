"""Triton where it is installed, inert stand-ins where it is not (macOS, Windows).

Operator files import ``triton``, ``tl`` and ``jit`` from here and start with
``from __future__ import annotations``, so that ``tl.constexpr`` stays a string and the
module can be imported without Triton.
"""

from typing import Any

try:
    import triton
    import triton.language as tl

    jit: Any = triton.jit
except ImportError:
    triton = None
    tl = None

    def _leave(fn: Any = None, **options: Any) -> Any:
        """Return the function untouched: nothing launches it without Triton."""
        return fn or _leave

    jit = _leave
