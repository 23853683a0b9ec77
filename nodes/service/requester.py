"""The requester's node: joint queries for its operator. Many holders at once, and every answer has a name."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial

import numpy as np

from nodes.config.schema import Role
from nodes.query.driver import QueryDriver, Silence
from nodes.service.node import Node
from nodes.service.operator_api import HolderAnswer, SearchReport, SearchRequest
from nodes.transport.outbox import PeerRefused, PeerUnreachable
from pets.errors import InputError, LineupError
from pets.params import norm_bound, preset
from protocol.errors import PeerAborted, QueryRefused
from protocol.outcome import Answer
from protocol.requester import Requester
from protocol.session import Session, State
from protocol.terms import Terms, parse_decimal
from protocol.warrant import Justification, Request, issue_warrant

WARRANT_SECONDS = 3600
SIDE_BY_SIDE = 4  # attempts with one holder each, after one with all of them failed and nobody was to blame


@dataclass(frozen=True)
class Prepared:
    """A search that persons approved: its number, its justification, and who is told of each query before it begins."""

    number: str
    justification: Justification
    begins: Callable[[bytes], None]


@dataclass
class _Search:
    """A search under way: what is asked, and what its attempts gave so far. Seconds are those of all attempts."""

    request: SearchRequest
    number: str
    justification: Justification
    begins: Callable[[bytes], None]
    answers: dict[str, HolderAnswer] = field(default_factory=dict)
    answered_in: dict[str, str] = field(default_factory=dict)
    queries: list[str] = field(default_factory=list)
    offline: float = 0.0
    online: float = 0.0
    side_by_side: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(SIDE_BY_SIDE))


class AskingNode(Node):
    """Adds `search` to a node."""

    _searches = 0

    @property
    def idle(self) -> bool:
        """As `Node.idle`; no search waits for its next attempt either."""
        return super().idle and not self._searches

    async def search(self, request: SearchRequest, prepared: Prepared | None = None) -> SearchReport:
        """Ask all holders; ask again without those that refuse or cannot be reached. `prepared`: by the casework.

        Raises `InputError`, and `PeerRefused` (capacity) from a node that is shutting down. Every attempt is a fresh
        query: new identity, key and randomness. When an attempt fails and no holder is to blame, each is asked alone.
        """
        self._check(request)
        if self.draining:
            raise PeerRefused(self.name, "capacity")
        self._searches += 1
        try:
            return await self._search(request, prepared or self._unprepared(request))
        finally:
            self._searches -= 1

    def _unprepared(self, request: SearchRequest) -> Prepared:
        return Prepared(f"{self.name}-{secrets.token_hex(8)}", _justification(request), lambda query: None)

    async def _search(self, request: SearchRequest, prepared: Prepared) -> SearchReport:
        search = _Search(request, prepared.number, prepared.justification, prepared.begins)
        await self._ask(search, request.holders)
        ordered = {name: search.answers[name] for name in request.holders}
        return SearchReport(
            search.number, tuple(search.queries), ordered, search.offline, search.online, search.answered_in
        )

    async def _ask(self, search: _Search, asked: Sequence[str]) -> None:
        """One attempt; then others with those that are still without an answer."""
        started = time.perf_counter()
        machine = self._machine_for(search, asked)
        search.queries.append(machine.query.hex())
        await asyncio.to_thread(search.begins, machine.query)
        driver = self.drive(machine)
        await _until(driver, partial(_set_up_ended, machine))
        search.offline += time.perf_counter() - started
        if machine.sessions[""].state is not State.FINISHED:
            failed = _culprits(driver, machine, asked)
            rest = [name for name in asked if name not in failed]
            search.answers.update(failed)
            if failed and rest:
                await self._ask(search, rest)
            elif len(rest) > 1:
                await asyncio.gather(*(self._ask_alone(search, name) for name in rest))
            else:
                search.answers.update({name: _failure(machine.sessions[""].failure) for name in rest})
            return
        started = time.perf_counter()
        self.keeper.keep_probe(machine, search.request.template, search.justification)
        driver.call(partial(machine.submit, np.frombuffer(search.request.template, np.int8)))
        await _until(driver, lambda: False)
        search.online += time.perf_counter() - started
        self.metrics.searched(time.perf_counter() - started)
        search.answers.update({name: _answer(driver, machine, name) for name in asked})
        search.answered_in.update(dict.fromkeys(asked, machine.query.hex()))
        if len(asked) > 1:
            # A holder that waited in vain for another one is there, and is asked alone.
            unclear = [name for name in asked if _waited_in_vain(driver.failed_peers.get(name), machine.sessions[name])]
            await asyncio.gather(*(self._ask_alone(search, name) for name in unclear))

    async def _ask_alone(self, search: _Search, holder: str) -> None:
        async with search.side_by_side:
            await self._ask(search, (holder,))

    def _machine_for(self, search: _Search, asked: Sequence[str]) -> Requester:
        """One attempt, not yet begun."""
        request, now = search.request, int(time.time())
        warrant = issue_warrant(
            Request(self.name, search.number, request.purpose, request.aim == "verify", now, now + WARRANT_SECONDS),
            search.justification,
        )
        return Requester(self.name, self._router(), asked, _terms(request), None, self.threads, warrant, self.notary)

    def _router(self) -> str:
        routers = [name for name, peer in self.peers.items() if peer.role is Role.ROUTER]
        if len(routers) != 1:
            raise InputError(f"{self.name} needs exactly one router among its peers, found {len(routers)}")
        return routers[0]

    def _check(self, request: SearchRequest) -> None:
        if self.config.role is not Role.REQUESTER:
            raise InputError(f"{self.name} is a {self.config.role.value}; only a requester can ask")
        if len(set(request.holders)) != len(request.holders):
            raise InputError(f"a holder is named twice: {', '.join(request.holders)}")
        for name in request.holders:
            if name not in self.peers or self.peers[name].role is not Role.HOLDER:
                known = sorted(peer.name for peer in self.peers.values() if peer.role is Role.HOLDER)
                raise InputError(f"{name} is no holder among the peers of {self.name}: {', '.join(known)}")
        _terms(request)
        template = np.frombuffer(request.template, np.int8).astype(np.int64)
        if int(template @ template) > norm_bound(len(template)) or int(template.min()) < -127:
            raise InputError("the probe is no quantised unit vector")


def _terms(request: SearchRequest) -> Terms:
    return Terms(
        parse_decimal(request.threshold, "threshold"),
        len(request.template),
        preset(request.preset),
        request.cap,
        parse_decimal(request.ladder, "ladder step"),
        request.model,
    )


def _justification(request: SearchRequest) -> Justification:
    justification = Justification(
        case=request.case,
        offence=request.offence,
        maximum_penalty_years=request.maximum_penalty_years,
        subject=request.subject,
        aim=request.aim,
        officer=request.officer,
        approver=request.approver,
        salt=secrets.token_bytes(32),
    )
    justification.check()
    return justification


def _set_up_ended(machine: Requester) -> bool:
    state = machine.sessions[""].state
    return machine.ready if state is State.FINISHED else state.over


async def _until(driver: QueryDriver, condition: Callable[[], bool]) -> None:
    while not condition() and not driver.finished:
        driver.changed.clear()
        await driver.changed.wait()


def _culprits(driver: QueryDriver, machine: Requester, asked: Sequence[str]) -> dict[str, HolderAnswer]:
    """Why the set-up failed, by holder; all of them if it was the router; nobody if that cannot be told."""
    # Whoever is silent may be waiting for another holder that is: among several, silence says nothing of anybody.
    alone = len(asked) == 1
    failed = {
        name: _failure(error)
        for name, error in driver.failed_peers.items()
        if name in asked and (alone or not isinstance(error, Silence))
    }
    error = machine.sessions[""].failure
    if failed:
        return failed
    if isinstance(driver.failed_peers.get(machine.router), (PeerRefused, PeerUnreachable)):
        return {name: _failure(error) for name in asked}
    if isinstance(error, PeerAborted) and error.code != "timeout":
        return {error.peer: _failure(error)} if error.peer in asked else {}
    return {}


def _waited_in_vain(given_up: LineupError | None, session: Session) -> bool:
    """Whether a holder's part ended because somebody was silent, and not in an answer, a refusal or a dead line.

    Never once the holder has begun to answer: it waits for no other holder then, and who stops after it was given
    numbers (or the router, after a guess) would have the same probe asked a second time.
    """
    if session.received[session.name]:
        return False
    if given_up is not None:
        return isinstance(given_up, Silence)
    failure = session.failure
    return isinstance(failure, Silence) or (isinstance(failure, PeerAborted) and failure.code in ("timeout", "peer"))


def _answer(driver: QueryDriver, machine: Requester, holder: str) -> HolderAnswer:
    answer: Answer | None = machine.answers.get(holder)
    session: Session = machine.sessions[holder]
    if answer is not None and session.state in (State.FINISHED, State.REFUSED):
        used: Decimal = answer.threshold_used
        if answer.status == "probe_refused":
            return HolderAnswer("refused", reason="probe refused")
        status = {"released": "candidates", "no_hit": "no hit", "too_many_candidates": "too many candidates"}
        return HolderAnswer(status[answer.status], answer.references, f"{used:f}")  # type: ignore[arg-type]
    return _failure(driver.failed_peers.get(holder, session.failure))


def _failure(error: LineupError | None) -> HolderAnswer:
    """Refused if somebody said so, unreachable if somebody said nothing."""
    code = error.code if isinstance(error, (PeerRefused, PeerAborted, QueryRefused)) else None
    if code == "timeout" or isinstance(error, PeerUnreachable):
        return HolderAnswer("unreachable", reason="no answer")
    if code is not None:
        return HolderAnswer("refused", reason=code)
    return HolderAnswer("refused", reason=type(error).__name__ if error is not None else "stopped")
