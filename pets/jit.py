"""One typed door to numba.

A kernel may call only kernels of its own file: numba's on-disk cache looks at the time stamp of the file
a kernel stands in, so a kernel imported from elsewhere could stay stale (`tests/pets/test_jit.py` checks this).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

F = TypeVar("F", bound=Callable[..., object])
T = TypeVar("T", bound=np.generic)


def kernel(function: F) -> F:
    """Compile with numba: cached on disk, and without the GIL so that `pets.threads` can spread the work."""
    return cast(F, numba.njit(cache=True, nogil=True)(function))


def short_kernel(function: F) -> F:
    """The same, but the GIL is kept: for work of microseconds, after which getting it back would take longer."""
    return cast(F, numba.njit(cache=True)(function))


def read_only(array: npt.NDArray[T]) -> npt.NDArray[T]:
    """A view that cannot be written through: for arrays that can be, numba would compile a kernel once more."""
    view = array.view(np.ndarray)  # nor is it a memory map, another class again
    view.flags.writeable = False
    return view
