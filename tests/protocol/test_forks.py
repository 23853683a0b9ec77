"""Several probes of one call are searched in processes of their own: same answers, same bytes, no secret twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from decimal import Decimal
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from pets.errors import TemplateError
from pets.synthetic import synthetic_templates
from pets.templates import quantise
from pets.threads import parallel_ranges
from protocol import engine as engine_module
from protocol.announcing import Plan
from protocol.engine import EncryptedEngine, PlainEngine
from protocol.forks import ForkLost, Forks, possible
from protocol.gallery import Gallery
from protocol.terms import Terms
from tests.kit.ring import RING

pytestmark = [pytest.mark.ring, pytest.mark.skipif(not possible(), reason="forks on Linux only")]

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


def test_an_error_in_a_process_is_raised_here_as_it_was(gallery: Gallery) -> None:
    asked = ROWS[:4].copy()
    asked[3] = 127  # far from the unit sphere
    with pytest.raises(TemplateError):
        EncryptedEngine(2).search(gallery, asked, TERMS)
    assert not children()


def test_a_process_that_is_killed_is_named_and_leaves_nobody(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(self: EncryptedEngine, *given: object) -> list[object]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []

    monkeypatch.setattr(EncryptedEngine, "search_prepared", dies)
    with pytest.raises(ForkLost, match="status -9"):
        EncryptedEngine(2).search(gallery, ROWS[:4], TERMS)
    assert not children()


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


def test_an_error_that_cannot_be_sent_is_told_in_words() -> None:
    def serve(asking: Connection) -> None:
        raise Odd(asking.recv(), 2)

    with Forks(1, serve) as forks, pytest.raises(RuntimeError, match="Odd: 1 and 2"):
        forks.ask([1])


def test_forks_end_with_the_process_that_asks(tmp_path: Path) -> None:
    program = "import sys; from tests.protocol.test_forks import begin; begin()"
    begun = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert begun.stdout is not None
    pids = [int(pid) for pid in begun.stdout.readline().split()]
    assert all(Path(f"/proc/{pid}").exists() for pid in pids), "the control"
    begun.kill()
    begun.wait()
    begun.stdout.close()
    deadline = time.monotonic() + 30
    while any(running(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def begin() -> None:
    with Forks(2, say) as forks:
        print(*forks.ask([None, None]), flush=True)
        time.sleep(600)


def say(asking: Connection) -> None:
    while True:
        asking.recv()
        asking.send(os.getpid())


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
