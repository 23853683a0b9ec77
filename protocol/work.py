"""Heavy work on a gallery, as `protocol.steps` describes it: what shares a pass over the rows is done together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pets.product import public_product
from pets.scoring import score_rows
from protocol.steps import Product, ScoreRows, Work

T = TypeVar("T")


class RowsElsewhere(ABC):
    """Rows of a gallery that are not in this process, in the place of an int8 array (rows, d): they do their own work.

    A few of them can be fetched by index.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    ndim = 2

    @abstractmethod
    def perform(self, works: Sequence[Work], threads: int) -> npt.NDArray[np.uint32]:
        """As `perform`, below."""


def passes(items: Iterable[T], work_of: Callable[[T], Work]) -> list[list[T]]:
    """Items in groups whose work reads the same rows in the same way."""
    groups: dict[tuple[object, ...], list[T]] = {}
    for item in items:
        work = work_of(item)
        groups.setdefault((type(work), id(work.rows), work.first, work.count), []).append(item)
    return list(groups.values())


def perform(works: Sequence[Work], threads: int) -> npt.NDArray[np.uint32]:
    """The results of works that share a pass, one after the other along the first axis."""
    first = works[0]
    if isinstance(first.rows, RowsElsewhere):
        return first.rows.perform(works, threads)
    if isinstance(first, ScoreRows):
        probes = [work.probe for work in works if isinstance(work, ScoreRows)]
        params = first.probe.params
        return score_rows(_rows(first.rows, params.n, first), probes, params, threads)
    values = np.stack([work.values for work in works if isinstance(work, Product)])
    return public_product(_rows(first.rows, first.params.n, first), values, first.params.t, threads)


def _rows(rows: npt.NDArray[np.int8], n: int, work: Work) -> npt.NDArray[np.int8]:
    return rows[work.first * n : (work.first + work.count) * n]
