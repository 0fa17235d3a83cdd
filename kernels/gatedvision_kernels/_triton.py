"""Triton where it is installed, inert stand-ins where it is not (macOS, Windows).

Operator files import ``triton``, ``tl`` and ``jit`` from here and start with
``from __future__ import annotations``, so that ``tl.constexpr`` stays a string and the
module can be imported without Triton.
"""

try:
    import triton
    import triton.language as tl

    jit = triton.jit
except ImportError:
    triton = None
    tl = None

    def jit(fn=None, **options):
        """Return the function untouched: nothing launches it without Triton."""
        return fn or jit
