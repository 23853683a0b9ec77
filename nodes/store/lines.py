"""Subjects as lines of text, which the database puts together: a million tuples would take longer than the reading.

::

    reference|category|status|retention date (YYYY-MM-DD)|number of the row

The digest of a store is made of them (`nodes.store.content`), and who is held is read out of the same ones, so that a
start goes over the table once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from sqlalchemy import text
from sqlalchemy.orm import Session

from nodes.store.database import is_postgresql
from nodes.store.errors import StoreCorrupted
from nodes.store.subjects import Category

CATEGORY_CODES = {category: code for code, category in enumerate(Category, 1)}  # in memory, from 1; 0: none of them
LAST_DAY = 2**16 - 1  # days since 1970, up to the year 2149; who is kept longer is kept until then

_COLUMNS = 'reference, category, status, retain_until, "row"'
# +model_id: by number of the subject, not by the index over models
_PART = "FROM subject WHERE id >= :first AND id < :stop AND +model_id = :model"
_SQLITE = text(
    f"SELECT count(*), group_concat(line, char(10)) FROM (SELECT printf('%s|%s|%s|%s|%s', {_COLUMNS}) AS line {_PART} "  # noqa: S608
    "ORDER BY id)"
)
_POSTGRESQL = text(f"SELECT count(*), string_agg(format('%s|%s|%s|%s|%s', {_COLUMNS}), chr(10) ORDER BY id) {_PART}")

_BAR, _NEWLINE, _ZERO, _DASH = b"|\n0-"
_BARS = 4  # in a line
_DATE = np.arange(10)
_DATE_DIGITS, _DATE_DASHES = [0, 1, 2, 3, 5, 6, 8, 9], [4, 7]
_DIGITS = 18  # of a number, at most: more do not fit into int64
_LETTERS = np.zeros(256, np.int64)  # the code of each first letter: no two categories begin alike
_LENGTHS = np.zeros(len(CATEGORY_CODES) + 1, np.int64)
for _category, _code in CATEGORY_CODES.items():
    _LETTERS[ord(_category.value[0])], _LENGTHS[_code] = _code, len(_category.value)


@dataclass(frozen=True)
class Held:
    """Some rows: `rows`, their numbers; `categories`, codes as in `CATEGORY_CODES`; `days`, since 1970. All int64."""

    rows: npt.NDArray[np.int64] = field(repr=False)
    categories: npt.NDArray[np.int64] = field(repr=False)
    days: npt.NDArray[np.int64] = field(repr=False)


def line(reference: str, category: str, status: str, retain_until: str, row: int) -> str:
    """The text of a subject, as the database makes it."""
    return f"{reference}|{category}|{status}|{retain_until}|{row}"


def read_lines(session: Session, first: int, stop: int, model: int) -> tuple[int, str]:
    """How many subjects of a model, by its number in the database, have a number from `first` to before `stop`; their
    lines, in the order of these numbers."""
    statement = _POSTGRESQL if is_postgresql(session.connection()) else _SQLITE
    count, lines = session.execute(statement, {"first": first, "stop": stop, "model": model}).one()
    return count, lines or ""


def held(lines: str, count: int, below: int) -> Held:
    """Who is held, of so many lines, one at least. `below`: numbers of rows are less.

    Raises `StoreCorrupted` for what was never written.
    """
    data = np.frombuffer(lines.encode(), np.uint8)
    ends = np.append(np.flatnonzero(data == _NEWLINE), len(data))
    bars = np.flatnonzero(data == _BAR)
    if len(ends) != count or len(bars) != _BARS * count:
        raise _never_written("a bar or a line break in a column")
    after_reference, after_category, after_status, after_date = bars.reshape(-1, _BARS).T
    if (after_date - after_status != len(_DATE) + 1).any():
        raise _never_written("a retention date that is none")
    rows = _numbers(data, after_date + 1, ends)
    if (rows >= below).any():
        raise _never_written(f"row {int(rows.max())} of {below}")
    return Held(rows, _categories(data, after_reference, after_category), _days(data, after_status))


def _categories(
    data: npt.NDArray[np.uint8], before: npt.NDArray[np.int64], after: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    codes = _LETTERS[data[before + 1]]
    return np.where(_LENGTHS[codes] == after - before - 1, codes, 0)


def _days(data: npt.NDArray[np.uint8], before: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Days since 1970 of dates, 0 to `LAST_DAY`."""
    written = data[before[:, None] + 1 + _DATE]
    digits = written.astype(np.int64) - _ZERO
    years = digits[:, :4] @ np.array([1000, 100, 10, 1])
    months, days = 10 * digits[:, 5] + digits[:, 6], 10 * digits[:, 8] + digits[:, 9]
    form = (written[:, _DATE_DASHES] == _DASH).all() and (written[:, _DATE_DIGITS] - np.uint8(_ZERO) <= 9).all()
    if not form or not ((months > 0) & (months <= 12) & (days > 0) & (days <= 31)).all():
        raise _never_written("a retention date that is none")
    firsts = (12 * (years - 1970) + months - 1).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    since: npt.NDArray[np.int64] = np.clip(firsts + days - 1, 0, LAST_DAY)
    return since


def _numbers(
    data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Decimal numbers, each from its start to before its end."""
    lengths = ends - starts
    if not 0 < lengths.min(initial=1) <= lengths.max(initial=1) <= _DIGITS:
        raise _never_written("a row without a number, or with one too long")
    numbers = np.zeros(len(starts), np.int64)
    for place in range(int(lengths.max(initial=0))):
        inside = place < lengths
        digits = data[starts[inside] + place].astype(np.int64) - _ZERO
        if ((digits < 0) | (digits > 9)).any():
            raise _never_written("a row whose number is none")
        numbers[inside] = 10 * numbers[inside] + digits
    return numbers


def _never_written(what: str) -> StoreCorrupted:
    return StoreCorrupted(f"the database holds what was never written there: {what}")
