"""All parties of one preparation and of the search that uses it, on an in-memory network, driven step by step."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from pets.errors import LineupError
from pets.params import Parameters
from pets.templates import Templates
from protocol.announcing import Plan
from protocol.engine import Outcome, PlainEngine
from protocol.gallery import Gallery
from protocol.local import LocalPreparation, LocalPreparing, LocalSearch
from protocol.machine import Machine
from protocol.memory import MemoryNetwork
from protocol.messages import Message, Release
from protocol.preparation import HolderPreparation, RequesterPreparation, RouterPreparation, pack, unpack
from protocol.roles import Parties
from protocol.searching import SearchingHolder, SearchingRequester, SearchingRouter
from protocol.session import State
from protocol.terms import Terms
from tests.kit.parties import HOLDER, REQUESTER, ROUTER, Attack, Delivery
from tests.kit.ring import RING


def hold(templates: Templates, params: Parameters = RING) -> Gallery:
    """A gallery whose reference numbers name the rows."""
    return Gallery.of(templates, params, tuple(f"row-{row}" for row in range(len(templates))))


def copied(made: LocalPreparation) -> LocalPreparation:
    """As after a restore from a backup."""
    holders = {name: unpack(pack(part), HolderPreparation) for name, part in made.holders.items()}
    return LocalPreparation(
        unpack(pack(made.requester), RequesterPreparation), unpack(pack(made.router), RouterPreparation), holders
    )


class Trio:
    """A requester, a router and one holder for each gallery (named HOLDER, or HOLDER-0 …), and what travelled.

    `prepare`, then `accept` (all that needs no probe), then `submit`; `search` does what is left of the three.
    """

    def __init__(
        self,
        *galleries: Gallery,
        threshold: str = "0.5",
        cap: int = 10,
        ladder: str = "0.02",
        attack: Attack | None = None,
        threads: int = 1,
        live: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        first = galleries[0]
        self.terms = Terms(Decimal(threshold), first.templates.shape[1], first.params, cap, Decimal(ladder))
        names = [HOLDER] if len(galleries) == 1 else [f"{HOLDER}-{i}" for i in range(len(galleries))]
        self.galleries = dict(zip(names, galleries, strict=True))
        self.live = {} if live is None else dict.fromkeys(names, live)  # bool (rows,): who may be found
        self.attack = attack
        self.threads = threads
        self.deliveries: list[Delivery] = []
        self.failures: list[LineupError] = []
        self.preparing: LocalPreparing | None = None
        self.made: LocalPreparation | None = None
        self.searching: LocalSearch | None = None

    def prepare(self) -> Trio:
        """Everything before there is a probe."""
        parties = Parties(REQUESTER, ROUTER, tuple(self.galleries))
        plan = Plan(self.terms.params, self.terms.dim)
        self.preparing = LocalPreparing.start(parties, self.galleries, plan, self.threads)
        self._run(self.preparing.machines)
        if not self.failures and all(machine.done for machine in self.preparing.parties):
            self.made = self.preparing.result
        return self

    def accept(self) -> Trio:
        """The announcement of the search and the answers to it."""
        if self.made is None:
            self.prepare()
        if self.made is not None:
            self.searching = LocalSearch.start(self.made, self.galleries, self.terms, self.threads, live=self.live)
            self._run(self.searching.machines)
        return self

    def search(self, probe: npt.NDArray[Any], *, unchecked: bool = False) -> Trio:
        """Submit a probe; `unchecked` goes past the requester's own look at it."""
        if self.searching is None:
            self.accept()
        if self.searching is not None and not self.failures and self.searching.requester.ready:
            requester = self.searching.requester
            (requester._submit if unchecked else requester.submit)(probe)
            self._run(self.searching.machines)
        return self

    @property
    def requester(self) -> SearchingRequester:
        """Of the search."""
        assert self.searching is not None
        return self.searching.requester

    @property
    def router(self) -> SearchingRouter:
        """Of the search."""
        assert self.searching is not None
        return self.searching.router

    @property
    def holder(self) -> SearchingHolder:
        """The first of the search."""
        assert self.searching is not None
        return next(iter(self.searching.holders.values()))

    @property
    def states(self) -> dict[tuple[str, str], State]:
        """(party, session) -> state, of the sessions about one holder, in the search."""
        assert self.searching is not None
        return {(m.name, s.name): s.state for m in self.searching.machines for s in m.sessions.values() if not s.whole}

    def outcome(self, holder: str = HOLDER) -> Outcome:
        """How the search ended, as the holder knows it; the requester must have been told the same."""
        assert not self.failures, self.failures
        assert self.searching is not None
        result, answer = self.searching.holders[holder].result, self.searching.requester.answers[holder]
        assert result is not None
        assert (answer.status, answer.threshold_used) == (result.status, result.threshold_used)
        gallery = self.galleries[holder]
        assert answer.references == tuple(gallery.reference(hit.row) for hit in result.hits)
        return Outcome(result.status, result.threshold_used, result.hits)

    def expected(self, probe: Templates, holder: str = HOLDER) -> Outcome:
        """What the plaintext twin finds among the rows that are live."""
        rows = self.galleries[holder].templates
        if holder in self.live:
            rows = np.where(self.live[holder][:, None], rows, np.int8(0))
        return PlainEngine().search(Gallery.plain(rows, self.terms.params), probe[None], self.terms)[0]

    def sent(self, kind: type[Message], sender: str | None = None, receiver: str | None = None) -> list[Delivery]:
        """All frames of a kind that left, whether or not an attack let them arrive."""
        return [delivery for delivery in self.deliveries if delivery.of(kind, sender, receiver)]

    def assert_stopped(self, *errors: type[LineupError], state: State | None = None) -> None:
        """Some party raised one of `errors`; nothing was released; every party is over, and nothing secret is left.

        `state`: what the holder's session must say.
        """
        assert any(isinstance(failure, errors) for failure in self.failures), self.failures
        assert not self.sent(Release)
        machines: list[Machine] = []
        if self.made is None:
            assert self.preparing is not None
            machines = self.preparing.machines
        elif self.searching is not None:
            machines = self.searching.machines
            assert not self.searching.requester.answers
            assert all(machine.result is None for machine in self.searching.holders.values())
            assert all(machine.done for machine in self.searching.parties)
            for part in (self.made.requester, self.made.router, *self.made.holders.values()):
                assert part.spent == (not part.rings), "what was used is erased, what was not stays"
        assert state is None or self.holder.sessions[self.holder.name].state is state, self.states
        over = {s.state for m in machines for s in m.sessions.values()}
        assert over <= {State.ABORTED, State.FROZEN, State.FINISHED}, over
        assert over & {State.ABORTED, State.FROZEN}

    def _run(self, machines: list[Machine]) -> None:
        network = MemoryNetwork(machines, self.threads, tap=self._tap)
        network.run()
        self.failures += network.failures

    def _tap(self, sender: str, receiver: str, frame: bytes) -> Iterable[bytes]:
        delivery = Delivery(sender, receiver, frame)
        self.deliveries.append(delivery)
        replaced = None if self.attack is None else self.attack(delivery)
        return (frame,) if replaced is None else replaced


def opened(parts: list[npt.NDArray[np.uint64]]) -> npt.NDArray[np.uint64]:
    """x_0 ^ x_1 ^ x_2 of what the holder, the requester and the router hold, uint64 (2, planes, words) each."""
    for seat in range(3):  # replicated: x_{i+1} of party i is the first component of party i+1
        assert np.array_equal(parts[seat][1], parts[(seat + 1) % 3][0])
    together: npt.NDArray[np.uint64] = parts[0][0] ^ parts[0][1] ^ parts[1][1]
    return together
