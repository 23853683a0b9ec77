"""One typed door to numba.

A kernel may call only kernels of its own file: numba's on-disk cache looks at the time stamp of the file
a kernel stands in, so a kernel imported from elsewhere could stay stale (`tests/pets/test_jit.py` checks this).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile with numba: cached on disk, and without the GIL so that `pets.threads` can spread the work."""
    return cast(F, numba.njit(cache=True, nogil=True)(function))


def short_kernel(function: F) -> F:
    """The same, but the GIL is kept: for work of microseconds, after which getting it back would take longer."""
    return cast(F, numba.njit(cache=True)(function))
