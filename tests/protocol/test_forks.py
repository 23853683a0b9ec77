"""Several probes of one call are searched in processes of their own: same answers, same bytes, no secret twice."""

from __future__ import annotations

import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from pets.allocator import unshared_memory
from pets.errors import TemplateError
from pets.synthetic import synthetic_templates
from pets.templates import quantise
from pets.threads import parallel_ranges
from protocol import engine as engine_module
from protocol.announcing import Plan
from protocol.engine import EncryptedEngine, PlainEngine
from protocol.errors import FalseRefusal, PeerAborted, QueryRefused
from protocol.forks import ForkLost, Forks, possible
from protocol.gallery import Gallery
from protocol.terms import Terms
from tests.kit.ring import RING

pytestmark = pytest.mark.skipif(not possible(), reason="forks on Linux only")

DIM = 16
ROWS = quantise(synthetic_templates(150, DIM, seed=3))
TERMS = Terms(Decimal("0.6"), DIM, RING)


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    return Gallery.of(ROWS, RING)


@pytest.mark.parametrize(("probes", "threads"), [(2, 2), (5, 2), (18, 3), (3, 8)])
def test_the_answers_are_those_of_the_plaintext_twin_in_their_order(
    gallery: Gallery, probes: int, threads: int
) -> None:
    asked, told = ROWS[7 : 7 + probes], list[int]()
    found = EncryptedEngine(threads).search(gallery, asked, TERMS, told.append)
    assert found == PlainEngine().search(gallery, asked, TERMS)
    assert all(outcome.hits for outcome in found)
    assert told == sorted({min(16, probes), probes})


def test_bytes_are_those_of_one_process_and_times_are_told(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    apart, together = EncryptedEngine(2), EncryptedEngine(2)
    apart.search(gallery, ROWS[:4], TERMS)
    monkeypatch.setattr(engine_module, "possible", lambda: False)
    together.search(gallery, ROWS[:4], TERMS)
    assert apart.cost.traffic == together.cost.traffic
    assert apart.cost.prepared == together.cost.prepared
    assert apart.cost.seconds.keys() == together.cost.seconds.keys() >= {"offline", "online"}
    assert all(seconds > 0 for seconds in apart.cost.seconds.values())
    assert apart.cost.forks_bytes > together.cost.forks_bytes == 0


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    """After each test this process has no children but those that others began."""
    before = set(children())
    yield
    assert set(children()) <= before


def test_an_error_in_a_process_is_raised_here_as_it_was(gallery: Gallery) -> None:
    asked = ROWS[:4].copy()
    asked[3] = 127  # far from the unit sphere
    with pytest.raises(TemplateError):
        EncryptedEngine(2).search(gallery, asked, TERMS)


def test_a_process_that_is_killed_is_named_and_leaves_nobody(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(self: EncryptedEngine, *given: object) -> list[object]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []

    monkeypatch.setattr(EncryptedEngine, "search_prepared", dies)
    with pytest.raises(ForkLost, match="status -9: is there too little memory"):
        EncryptedEngine(2).search(gallery, ROWS[:4], TERMS)


@pytest.mark.parametrize(("probes", "threads", "each"), [(3, 8, [3, 3, 2]), (2, 2, [1, 1]), (18, 3, [1] * 16 + [2, 1])])
def test_every_thread_is_used(
    gallery: Gallery, probes: int, threads: int, each: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def used(self: EncryptedEngine, gallery: Gallery, probes: list[object], *_: object) -> list[int]:
        return [self.threads] * len(probes)

    monkeypatch.setattr(EncryptedEngine, "prepare", lambda *_: None)
    monkeypatch.setattr(EncryptedEngine, "search_prepared", used)
    assert EncryptedEngine(threads).search(gallery, ROWS[:probes], TERMS) == each


@pytest.mark.parametrize(("rows", "probes", "forks"), [(38, 4, True), (37, 4, False), (10, 15, True), (9, 18, False)])
def test_processes_only_where_passes_over_the_gallery_are_short(
    gallery: Gallery, rows: int, probes: int, forks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "ROWS_A_PROBE", rows)
    engine = EncryptedEngine(2)
    assert engine.search(gallery, ROWS[:probes], TERMS) == PlainEngine().search(gallery, ROWS[:probes], TERMS)
    assert (engine.cost.forks_bytes > 0) is forks


def test_memory_of_a_fork_is_what_it_wrote_and_not_what_it_read(tmp_path: Path) -> None:
    with (tmp_path / "rows.npy").open("wb") as stream:
        np.save(stream, np.ones(96 << 20, np.int8))
        os.fsync(stream)  # what is not on the disk yet counts as written by whoever has it mapped
    mapped, inherited = np.load(tmp_path / "rows.npy", mmap_mode="r"), np.ones(48 << 20, np.int8)
    assert mapped[
        ::4096
    ].any()  # in memory (tmpfs) nothing is ever on a disk: there a page is shared if two have read it

    def serve(asking: Connection) -> None:
        asking.recv()
        before = unshared_memory()
        inherited[: 32 << 20] = 2  # a copy of these pages, in a resident set of the same size
        asking.send((int(mapped[::4096].sum()), unshared_memory() - before))

    with Forks(2, serve) as forks:
        for touched, grown in forks.ask([None] * 2):
            assert touched == (96 << 20) // 4096
            assert 31 << 20 <= grown < 40 << 20


@pytest.mark.parametrize("copied", [False, True], ids=["of the system", "of a generator in memory"])
def test_no_two_processes_draw_the_same_in_a_search(
    gallery: Gallery, copied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every secret, nonce and name of preparations and searches; a generator that was copied is the control."""
    place, source = tmp_path / "drawn", random.Random(1).randbytes if copied else secrets.token_bytes

    def draw(size: int) -> bytes:
        drawn = source(size)
        with place.open("a") as stream:
            print(os.getpid(), drawn.hex(), file=stream)
        return drawn

    monkeypatch.setattr(secrets, "token_bytes", draw)
    EncryptedEngine(2).search(gallery, ROWS[:4], TERMS)
    lines = [line.split() for line in place.read_text().splitlines()]
    assert len({pid for pid, _ in lines}) == 2
    assert len(lines) >= 4 * 10
    assert (len({drawn for _, drawn in lines}) < len(lines)) is copied


def test_no_process_draws_what_another_drew(gallery: Gallery) -> None:
    """A generator kept in memory would be copied: masks, keys and ids would be the same in all."""
    made = EncryptedEngine().prepare(gallery, Plan(RING, DIM, TERMS.model))[0]
    with Forks(3, partial(draw, gallery)) as forks:
        drawn = forks.ask([None] * 3) + forks.ask([None] * 3) + [told(made)]
    for kind in zip(*drawn, strict=True):
        assert len(set(kind)) == 7, "each of its own"


def draw(gallery: Gallery, asking: Connection) -> None:
    while True:
        asking.recv()
        asking.send(told(EncryptedEngine().prepare(gallery, Plan(RING, DIM, TERMS.model))[0]))


def told(made: engine_module.LocalPreparation) -> tuple[bytes, ...]:
    (requester, holder) = (part.rings[next(iter(part.rings))] for part in (made.requester, made.holders["HOLDER"]))
    secret = [requester.own, holder.own, requester.chunks[0].z.tobytes(), holder.admission.tobytes()]
    return made.requester.preparation_id, *secret


def test_threads_of_this_process_are_not_waited_for_in_a_fork() -> None:
    sums: list[int] = []
    parallel_ranges(lambda start, stop: sums.append(stop - start), 10, 2)
    with Forks(1, add) as forks:
        assert forks.ask([10]) == [10] == [sum(sums)]


def add(asking: Connection) -> None:
    sums: list[int] = []
    parallel_ranges(lambda start, stop: sums.append(stop - start), asking.recv(), 2)
    asking.send(sum(sums))


class Odd(Exception):
    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")
        self.other: object = other


ERRORS = [
    PeerAborted("FR", "capacity", "DE"),
    FalseRefusal("FR", "NL"),
    QueryRefused("warrant", "too old"),
    FileNotFoundError(2, "No such file or directory", "rows.npy"),
    EOFError("of another file"),
    Odd(1, 2),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_keeps_type_text_and_attributes_and_where_it_was_raised(error: Exception) -> None:
    with Forks(1, partial(fail, error)) as forks, pytest.raises(type(error)) as caught:
        forks.ask([None])
    assert str(caught.value) == str(error)
    assert vars(caught.value) == vars(error)
    assert "in fail" in str(caught.value.__cause__)


def test_an_error_that_cannot_be_sent_is_told_in_words() -> None:
    error = Odd(1, 2)
    error.other = (each for each in ())
    with Forks(1, partial(fail, error)) as forks, pytest.raises(RuntimeError, match="Odd: 1 and 2"):
        forks.ask([1])


def fail(error: Exception, asking: Connection) -> None:
    asking.recv()
    raise error


@pytest.mark.parametrize("busy", ["waiting", "computing", "answering"])
def test_forks_end_with_the_process_that_asks_and_say_nothing(busy: str) -> None:
    begun = subprocess.Popen([*PROGRAM, f"begin({busy!r})"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert begun.stdout is not None
    pids = [int(pid) for pid in begun.stdout.readline().split()]
    time.sleep(0.2)
    assert pids
    assert all(running(pid) for pid in pids), "the control"
    begun.kill()
    deadline = time.monotonic() + 30
    while any(running(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert begun.communicate()[1] == ""


def test_a_system_that_gives_no_process_is_named_and_nobody_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    fork, begun = os.fork, list[int]()

    def second_fails() -> int:
        if begun:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        begun.append(fork())
        return begun[0]

    monkeypatch.setattr(os, "fork", second_fails)
    with pytest.raises(ForkLost, match=r"no process .*\(Resource temporarily unavailable\)"):
        Forks(3, say)
    assert begun


def test_a_daemonic_process_searches_with_threads(gallery: Gallery) -> None:
    """Python lets it have no processes: else a worker of a pool could not search."""

    def serve(asking: Connection) -> None:
        asking.send(EncryptedEngine(2).search(gallery, ROWS[: asking.recv()], TERMS))

    with Forks(1, serve) as forks:
        assert forks.ask([3]) == [PlainEngine().search(gallery, ROWS[:3], TERMS)]


def test_an_interrupt_between_two_forks_is_not_lost() -> None:
    """It comes in a hook that runs before a fork: what that raises is printed and forgotten (`logging` has such)."""
    ended = subprocess.run([*PROGRAM, "begin_interrupted()"], capture_output=True, text=True, timeout=60)
    assert ended.stderr == ""
    assert ended.stdout == "interrupted, and nobody is left\n"


def begin_interrupted() -> None:
    hooked: list[int] = []

    def hook() -> None:
        hooked.append(1)
        if len(hooked) == 2:
            signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it runs in the background ignore it
    os.register_at_fork(before=hook)
    try:
        Forks(3, say)
    except KeyboardInterrupt:
        print("interrupted, and", "somebody" if children() else "nobody", "is left")


def test_an_interrupt_of_the_whole_group_is_for_the_process_that_asks() -> None:
    """That may have chosen to go on."""
    with Forks(2, say) as forks:
        pids = forks.ask([None] * 2)
        for pid in pids:
            os.kill(pid, signal.SIGINT)
        assert forks.ask([None] * 2) == pids


def test_nobody_waits_for_the_others_when_one_has_ended_or_failed() -> None:
    started = time.monotonic()
    with Forks(3, say) as forks:
        os.kill(forks.ask([None] * 3)[1], signal.SIGTERM)
        with pytest.raises(ForkLost, match="status -15"):
            forks.ask(["computing"] * 3)
    with Forks(3, say) as forks, pytest.raises(FileNotFoundError):
        forks.ask(["computing", "computing", "failing"])
    assert time.monotonic() - started < 10, "they compute for ever"


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


PROGRAM = [sys.executable, "-c", "import sys; from tests.protocol import test_forks; eval('test_forks.' + sys.argv[1])"]


def begin(busy: str) -> None:
    with Forks(2, say) as forks:
        print(*forks.ask([None, None]), flush=True)
        if busy == "waiting":
            time.sleep(600)
        forks.ask([busy, "computing"])


def say(asking: Connection) -> None:
    """Answer who this is; or compute and never look up; or answer again and again while nobody listens; or fail."""
    while True:
        asked = asking.recv()
        while asked is not None:
            if asked == "failing":
                raise FileNotFoundError(2, "No such file or directory")
            if asked == "answering":
                asking.send(os.getpid())
        asking.send(os.getpid())


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
