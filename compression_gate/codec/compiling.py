"""How the coder's loops are compiled.

What numba compiles is kept on disk behind the first call, which takes seconds: beside the module, or in the user's
cache where that cannot be written to. Where neither can, every process compiles anew. Kernels let go of the
interpreter's lock, so that threads code pieces beside each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def compiled(kernel: Kernel) -> Kernel:
    """A function that runs as machine code; arrays are not bounds-checked in it."""
    return cast("Kernel", kept(kernel, nogil=True))


def inlined(kernel: Kernel) -> Kernel:
    """The same, put into its callers."""
    return cast("Kernel", kept(kernel, nogil=True, inline="always"))


def kept(kernel: Callable[..., Any], **options: Any) -> Any:
    """Compile, and keep the result where there is a place for it."""
    try:
        return numba.njit(cache=True, **options)(kernel)
    except RuntimeError:  # no folder that can be written to
        return numba.njit(**options)(kernel)
