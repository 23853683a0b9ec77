"""The shards of a gallery: made, asked, asked again where a worker is lost, and made anew where the connection is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nodes.cluster.errors import ClusterError, ClusterUnavailable, Silent, WorkerLost
from nodes.cluster.link import Calls
from nodes.cluster.shard import Answer, Range, split
from nodes.config.cluster import ClusterConfig
from pets.errors import LineupError
from pets.params import PRESETS

log = logging.getLogger("lineup.cluster")

UNIT = max(params.n for params in PRESETS.values())  # rows that stay together: a block of the largest ring
SPARE_ROWS = 2**20  # that the last shard takes before there is another
PAUSE_SECONDS = 0.2  # between tries of a shard of which no copy answers
START_SECONDS = 300.0  # to read all rows; a shard of thirty million is read in some twenty seconds
FORGET_SECONDS = 10.0

Ask = Callable[[Any], Any]


@dataclass
class Part:
    """A range, the processes that hold it, over which connection they were made, and up to how many rows."""

    range: Range
    copies: tuple[Any, ...] = ()
    turn: int = 0
    held: int = 0

    def __str__(self) -> str:
        return f"rows {self.range.first} to {self.range.stop}"


class Shards:
    """The rows of one epoch of block files (folder `gallery`) in the cluster that `config` names.

    `node`: its folder. `unit`: rows that stay together. `fault`: why they were last of no use; empty where they are.
    `reached`: rows that are at hand, and that are searched while others are read. `late`: why others were not read when
    that was last tried, which keeps nobody from those. Raises `ClusterError`,
    `ClusterUnavailable`, and what a shard raises for what it was asked.
    """

    def __init__(
        self,
        calls: Calls,
        config: ClusterConfig,
        node: Path,
        gallery: Path,
        epoch: int,
        dim: int,
        unit: int = UNIT,
        spare: int = SPARE_ROWS,
    ) -> None:
        self.calls, self.dim, self.fault, self.late, self.reached = calls, dim, "", "", 0
        self.parts: list[Part] = []
        self._config, self._unit, self._spare = config, unit, spare
        self._given = str(node), str(gallery), epoch
        self._lock = threading.Lock()
        self._closed = False
        self._forgets = 0  # calls of `forget` that have begun

    @property
    def well(self) -> bool:
        """Whether nothing is known that is wrong, without asking anybody."""
        turn = self.calls.connected()
        return not self.fault and all(part.turn == turn for part in self.parts if part.range.of(self.reached))

    def reach(self, rows: int) -> None:
        """Have rows 0 to `rows` at hand; returns when they are read. New ones go into the last shard, then others."""
        try:
            self._reach(rows)
        except ClusterUnavailable as error:
            if self._serves:
                self.late = str(error)
            else:
                self.fault = str(error)
            raise
        except LineupError as error:
            self.fault = str(error)
            raise
        self.fault = self.late = ""

    @property
    def _serves(self) -> bool:
        """Whether the rows that were reached are at hand."""
        turn, needed = self.calls.connected(), [part for part in self.parts if part.range.of(self.reached)]
        return bool(needed) and all(part.turn == turn and part.held >= part.range.of(self.reached) for part in needed)

    def _reach(self, rows: int) -> None:
        with self._lock:
            turn, parts = self._connect(), self._parts_for(rows)
            if len(parts) > len(self.parts):
                self._check_processors(len(parts))
                self.parts = parts
        needed = self.reached or rows  # new ones alone: the others are searched meanwhile
        if any(part.range.of(needed) and (part.turn != turn or not part.held) for part in self.parts):
            self.fault = self.fault or "the rows are being read"
        deadline = time.monotonic() + START_SECONDS
        while behind := self._behind(rows):
            left = deadline - time.monotonic()
            if left <= 0:
                raise ClusterUnavailable(f"{behind[0]}: not read within {START_SECONDS:.0f} s")
            answers = self.each([(part, _holding(self, part.range.of(rows))) for part in behind], left)
            for part, (_, held) in zip(behind, answers, strict=True):
                part.held = min(held, part.range.of(rows))
            if self._behind(rows):
                time.sleep(PAUSE_SECONDS)
        self.reached = max(self.reached, rows)

    def _behind(self, rows: int) -> list[Part]:
        turn = self.calls.connected()
        return [part for part in self.parts if part.turn != turn or part.held < part.range.of(rows)]

    def each(
        self, pieces: Sequence[tuple[Part, Ask]], seconds: float | None = None, copy: int | None = None
    ) -> list[Answer]:
        """What each part answers, all asked at once.

        `seconds`: to wait in place of the configured patience. `copy`: ask that one only.
        """
        patience = self._config.patience_seconds if seconds is None else seconds
        deadline = time.monotonic() + patience
        copies = range(self._config.copies) if copy is None else (copy,)
        begun = [(part, ask, self._begin(part, ask, copies)) for part, ask in pieces]
        found: list[Answer] = []
        try:
            for part, ask, answer in begun:
                found.append(self._answer(part, ask, answer, copies, deadline))
        except BaseException:
            for _, _, answer in begun[len(found) + 1 :]:
                if answer is not None:
                    with suppress(WorkerLost):
                        self.calls.drop(answer)
            raise
        return found

    def owners(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[Part, npt.NDArray[np.int64]]]:
        """Of each part that has any of them: which of `rows`."""
        for part in self.parts:
            inside = np.flatnonzero((rows >= part.range.first) & (rows < part.range.stop))
            if len(inside):
                yield part, inside

    def forget(self, rows: npt.NDArray[np.int64]) -> bool:
        """Overwrite rows in every copy; whether all did. A copy that is made anew reads them as zeros.

        One that nobody asks yet is told, and not waited for: it may be reading, and does this before it is asked.
        """
        self._forgets += 1
        turn, deadline = self.calls.connected(), time.monotonic() + FORGET_SECONDS
        begun, lost = [], list[WorkerLost]()
        for part, inside in self.owners(rows):
            places = rows[inside] - part.range.first
            copies = part.copies if part.turn == turn else ()
            for copy in copies[: self._config.copies]:
                with _noting(lost):
                    begun.append(self.calls.ask(copy, "forget", places))
            for copy in copies[self._config.copies :]:
                with suppress(WorkerLost):
                    self.calls.drop(self.calls.ask(copy, "forget", places))
        for answer in begun:  # of all at once: who waits for this holds the gallery
            with _noting(lost):
                self.calls.get(answer, max(0.1, deadline - time.monotonic()))
        if lost:
            log.warning(f"{len(lost)} shards did not hear what to forget", extra={"error": str(lost[0])})
        return not lost

    def add(self, part: Part, before: tuple[Any, ...]) -> Any:
        """A further copy of a part, behind those it had `before`, on another machine than the first.

        None where it has others now, or where somebody was forgotten at this very moment: the new copy may have read
        their row and not have heard of it. Raises `WorkerLost`.
        """
        forgets, new = self._forgets, self._make(part, before[0], there_only=True)
        if self.change(part, before, (*before, new)):
            if self._forgets == forgets:
                return new
            self.change(part, (*before, new), before)
        self.end(new)
        return None

    def end(self, copy: Any) -> None:
        """End one process that is no copy of a part any more."""
        with suppress(WorkerLost):
            self.calls.end((copy,))

    def change(self, part: Part, before: tuple[Any, ...], copies: tuple[Any, ...]) -> bool:
        """Have other copies of a part, the first to be asked first; whether it had those that it should have before.

        Those behind `config.copies` are not asked, but hear who is forgotten.
        """
        with self._lock:
            if part.copies != before:
                return False
            part.copies = copies
            return True

    def close(self) -> None:
        """End the processes. Who still asks is told."""
        with self._lock:
            self._closed = True
            for part in self.parts:
                self._end(part)

    def _parts_for(self, rows: int) -> list[Part]:
        parts = list(self.parts)
        if rows and not parts:
            parts = [Part(one) for one in split(rows, self._unit, self._config.shards, self._spare)]
        while parts and rows > parts[-1].range.stop:
            parts.append(Part(Range(parts[-1].range.stop, max(part.range.room for part in parts))))
        return parts

    def _check_processors(self, parts: int) -> None:
        """Ray would wait for processors without a word."""
        needed, there = parts * self._config.copies * self._config.threads, self.calls.processors()
        if needed > there:
            raise ClusterError(
                f"the cluster at {self._config.address} has {there} processors, and {needed} are needed: one for each "
                "thread of each copy of each shard ([cluster] in node.toml)"
            )

    def _connect(self) -> int:
        try:
            return self.calls.connect()
        except ClusterError as error:
            self.fault = str(error)
            raise

    def _copies(self, part: Part) -> tuple[Any, ...]:
        """The processes of a part, made anew where the connection over which they were made is gone."""
        with self._lock:
            if self._closed:
                raise ClusterError("the rows were let go of: the gallery was compacted or replaced")
            try:
                turn = self._connect()
            except ClusterError as error:
                raise WorkerLost(str(error)) from None
            if part.turn != turn:
                first = self._make(part)
                part.copies = (first, *(self._make(part, first) for _ in range(1, self._config.copies)))
                part.turn, part.held = turn, 0
            return part.copies

    def _make(self, part: Part, beside: Any = None, *, there_only: bool = False) -> Any:
        given = *self._given, part.range, self.dim, self._config.threads
        return self.calls.make(*given, beside=beside, there_only=there_only)

    def _begin(self, part: Part, ask: Ask, copies: Sequence[int]) -> Any:
        try:
            return ask(self._copies(part)[copies[0]])
        except WorkerLost:
            return None

    def _answer(self, part: Part, ask: Ask, answer: Any, copies: Sequence[int], deadline: float) -> Answer:
        """The answer; from another copy, or from the same one started anew, where a worker was lost."""
        tries = 0
        while True:
            try:
                if answer is None:
                    answer = ask(self._copies(part)[copies[tries % len(copies)]])
                left = deadline - time.monotonic()
                # One that hangs may not use up the time of the other.
                found: Answer = self.calls.get(answer, max(0.1, left / (2 if tries < len(copies) - 1 else 1)))
            except WorkerLost as error:
                lost = error
            else:
                return found
            tries, answer = tries + 1, None
            if tries == 1:
                log.warning("a worker was lost; its part is asked for again", extra={"error": str(lost)})
            if time.monotonic() > deadline:
                raise self._give_up(part, tries, lost)
            if tries % len(copies) == 0:
                time.sleep(PAUSE_SECONDS)

    def _give_up(self, part: Part, tries: int, lost: WorkerLost) -> ClusterUnavailable:
        """Make everything anew, but where a process may be at work still: it is asked once more, with more patience."""
        told = f"{part}: no answer in time, {tries} tries ({lost})"
        with self._lock:
            if self.reached and not part.range.of(self.reached):
                self._end(part)  # nobody needs it yet, and the others are searched
            else:
                self.fault = told
                if not isinstance(lost, Silent) or not part.held:
                    self.calls.give_up(part.turn)
            part.held = 0
        return ClusterUnavailable(told)

    def _end(self, part: Part) -> None:
        if part.turn and part.turn == self.calls.connected():
            with suppress(WorkerLost):
                self.calls.end(part.copies)
        part.copies, part.turn, part.held = (), 0, 0


@contextmanager
def _noting(lost: list[WorkerLost]) -> Iterator[None]:
    try:
        yield
    except WorkerLost as error:
        lost.append(error)


def _holding(shards: Shards, rows: int) -> Ask:
    return lambda copy: shards.calls.ask(copy, "hold", rows)
