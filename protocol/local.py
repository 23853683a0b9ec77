"""Preparing and searching with all parties in this process. They share nothing but the network."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from protocol.announcing import Plan
from protocol.gallery import Gallery
from protocol.live import Liveness
from protocol.machine import Machine
from protocol.memory import MemoryNetwork
from protocol.party import Context, Hook, Party
from protocol.preparation import HolderPreparation, RequesterPreparation, RouterPreparation
from protocol.preparing import PreparingHolder, PreparingRequester, PreparingRouter
from protocol.roles import Parties
from protocol.searching import SearchingHolder, SearchingRequester, SearchingRouter
from protocol.steps import ScoreRows, Work
from protocol.terms import Terms


@dataclass
class LocalPreparation:
    """What all parties keep of one preparation, side by side: only ever in one process, and in its files."""

    requester: RequesterPreparation
    router: RouterPreparation
    holders: dict[str, HolderPreparation] = field(default_factory=dict)

    def erase(self) -> None:
        """Overwrite everything."""
        for part in (self.requester, self.router, *self.holders.values()):
            part.erase()


@dataclass
class _Local:
    """The machines of all parties of one conversation."""

    requester: Party
    router: Party
    holders: Mapping[str, Party]

    @property
    def parties(self) -> list[Party]:
        """All parties; the requester last, because it speaks first."""
        return [self.router, *self.holders.values(), self.requester]

    @property
    def machines(self) -> list[Machine]:
        """The same."""
        return list(self.parties)


@dataclass
class LocalPreparing(_Local):
    """The machines of one preparation."""

    requester: PreparingRequester
    router: PreparingRouter
    holders: dict[str, PreparingHolder]

    @classmethod
    def start(cls, parties: Parties, galleries: Mapping[str, Gallery], plan: Plan, threads: int = 1) -> LocalPreparing:
        """Machines for every party; the requester has announced."""
        context = Context(parties.requester, secrets.token_bytes(16), parties, threads)
        started = cls(
            PreparingRequester(context, plan),
            PreparingRouter(replace(context, name=parties.router)),
            {name: PreparingHolder(replace(context, name=name), gallery) for name, gallery in galleries.items()},
        )
        for machine in started.machines:
            machine.start()
        return started

    @property
    def result(self) -> LocalPreparation:
        """What was prepared, of holders that were not lost on the way."""
        requester, router = self.requester.preparation, self.router.preparation
        assert requester is not None
        assert router is not None
        made = {name: machine.preparation for name, machine in self.holders.items()}
        return LocalPreparation(requester, router, {name: part for name, part in made.items() if part is not None})


def prepare(
    parties: Parties,
    galleries: Mapping[str, Gallery],
    plan: Plan,
    count: int,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[LocalPreparation], MemoryNetwork]:
    """`count` preparations that share every pass over a gallery, and the network that carried them.

    `progress` is told the rows scored so far, of all preparations together. Raises the first error of any party.
    """
    done = 0

    def scored(work: Work) -> None:
        nonlocal done
        if isinstance(work, ScoreRows) and progress is not None:
            n = plan.params.n
            done += len(work.rows[work.first * n : (work.first + work.count) * n])
            progress(done)

    each = max(1, threads // count)
    started = [LocalPreparing.start(parties, galleries, plan, each) for _ in range(count)]
    network = MemoryNetwork([machine for one in started for machine in one.machines], threads, worked=scored)
    network.run_or_raise()
    return [one.result for one in started], network


@dataclass
class LocalSearch(_Local):
    """The machines of one search with a preparation."""

    requester: SearchingRequester
    router: SearchingRouter
    holders: dict[str, SearchingHolder]

    @classmethod
    def start(
        cls,
        preparation: LocalPreparation,
        galleries: Mapping[str, Gallery],
        terms: Terms,
        threads: int = 1,
        spend: Hook | None = None,
        live: Mapping[str, Liveness] | None = None,
    ) -> LocalSearch:
        """Machines for every party; the requester has announced. `galleries`: of the holders that are asked.

        `live`: of holders, which rows may still be found (`protocol.live`); of all others all rows.
        Raises `Disagreement` for terms or holders that the preparation does not serve; it is not spent then.
        """
        made = preparation.requester
        parties = Parties(made.requester, made.router, tuple(galleries))
        context = Context(made.requester, secrets.token_bytes(16), parties, threads, spend=spend)
        started = cls(
            SearchingRequester(context, terms, made),
            SearchingRouter(replace(context, name=made.router), preparation.router),
            {
                name: SearchingHolder(
                    replace(context, name=name), gallery, preparation.holders[name], (live or {}).get(name)
                )
                for name, gallery in galleries.items()
            },
        )
        for machine in started.machines:
            machine.start()
        return started


def machines_of(searches: Sequence[LocalSearch]) -> list[Machine]:
    """The machines of several searches."""
    return [machine for search in searches for machine in search.machines]
