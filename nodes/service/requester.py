"""The requester's node: joint queries for its operator. Many holders at once, and every answer has a name."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from decimal import Decimal
from functools import partial
from typing import Any

import msgspec
import numpy as np

from nodes.config.schema import Role
from nodes.query.driver import QueryDriver, Silence
from nodes.service.node import Node
from nodes.service.operator_api import STANDING, HolderAnswer, SearchReport, SearchRequest, Standing
from nodes.transport.outbox import PeerRefused, PeerUnreachable
from pets.errors import MALFORMED, InputError, LineupError
from pets.params import norm_bound, preset
from protocol.errors import FalseRefusal, PeerAborted, QueryRefused
from protocol.machine import abort_code
from protocol.messages import Warrant
from protocol.outcome import Answer
from protocol.requester import Requester
from protocol.session import Session, State
from protocol.terms import Terms, parse_decimal
from protocol.warrant import Justification, Request, issue_warrant

log = logging.getLogger("lineup.requester")

WARRANT_SECONDS = 3600
SIDE_BY_SIDE = 4  # attempts with one holder each, after one with all of them failed and nobody was to blame


@dataclass
class _Search:
    """A search under way: what is asked, and what its attempts gave so far. Seconds are those of all attempts."""

    request: SearchRequest
    number: str
    justification: Justification
    warrant: Warrant  # of every attempt: it names the one probe and all holders
    answers: dict[str, HolderAnswer] = field(default_factory=dict)
    queries: list[str] = field(default_factory=list)
    offline: float = 0.0
    online: float = 0.0
    side_by_side: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(SIDE_BY_SIDE))


class AskingNode(Node):
    """Adds `search` to a node."""

    _searches = 0

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._refused_until: dict[str, date | None] = {}  # by holders, for the limit of releases

    @property
    def idle(self) -> bool:
        """As `Node.idle`; no search waits for its next attempt either."""
        return super().idle and not self._searches

    async def search(self, request: SearchRequest) -> SearchReport:
        """Ask all holders; ask again without those that refuse or cannot be reached.

        Raises `InputError`, and `PeerRefused` (capacity) from a node that is shutting down. Every attempt is a fresh
        query: new identity, key and randomness. When an attempt fails and no holder is to blame, each is asked alone.
        """
        self._check(request)
        if self.draining:
            raise PeerRefused(self.name, "capacity")
        self._searches += 1
        try:
            return await self._search(request)
        finally:
            self._searches -= 1

    async def _search(self, request: SearchRequest) -> SearchReport:
        number, justification = f"{self.name}-{secrets.token_hex(8)}", _justification(request)
        search = _Search(request, number, justification, self._warrant(request, number, justification))
        await self._ask(search, request.holders)
        await self._ask_standing(search.answers)
        ordered = {name: search.answers[name] for name in request.holders}
        return SearchReport(search.number, tuple(search.queries), ordered, search.offline, search.online)

    async def _ask(self, search: _Search, asked: Sequence[str]) -> None:
        """One attempt; then others with those that are still without an answer."""
        started = time.perf_counter()
        driver, machine = self._announce(search, asked)
        search.queries.append(machine.query.hex())
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
                search.answers.update({name: _failure(machine.sessions[""].failure, self.name) for name in rest})
            return
        started = time.perf_counter()
        self.keeper.keep_probe(machine, search.request.template, search.justification)
        driver.call(partial(machine.submit, np.frombuffer(search.request.template, np.int8)))
        await _until(driver, lambda: False)
        search.online += time.perf_counter() - started
        self.metrics.searched(time.perf_counter() - started)
        search.answers.update({name: _answer(driver, machine, name) for name in asked})
        if machine.false_refusal is not None:
            self._alarm(machine.false_refusal, machine.query)
        if len(asked) > 1:
            # A holder that waited in vain for another one is there, and is asked alone.
            unclear = [name for name in asked if _waited_in_vain(driver.failed_peers.get(name), machine.sessions[name])]
            await asyncio.gather(*(self._ask_alone(search, name) for name in unclear))

    async def _ask_standing(self, answers: Mapping[str, HolderAnswer]) -> None:
        """Of those that refused for a quota: is it the limit of releases, and when does it end? For `standing`."""
        for holder, answer in answers.items():
            if answer.reason == "quota" and answer.by == holder:
                try:
                    told = await self._transport.ask(holder, STANDING)
                    self._refused_until[holder] = msgspec.json.decode(told, type=Standing).refused_until
                except (LineupError, *MALFORMED) as error:
                    log.warning("standing not told", extra={"peer": holder, "error": type(error).__name__})

    def standing(self) -> list[str]:
        """As `Node.standing`, and which holders refuse this state."""
        today = datetime.now(timezone.utc).date()
        refused = {name: day for name, day in self._refused_until.items() if day is not None and day > today}
        return [*super().standing(), *(f"{name} refuses {self.name} until {day}" for name, day in refused.items())]

    def _alarm(self, lie: FalseRefusal, query: bytes) -> None:
        """Tell the operator that somebody lied about a probe."""
        self.metrics.refused_falsely()
        log.error("false refusal", extra={"query": query.hex(), "peer": lie.holder, "error": type(lie).__name__})
        self.alarms.append(f"query {query.hex()}: {lie}")

    async def _ask_alone(self, search: _Search, holder: str) -> None:
        async with search.side_by_side:
            await self._ask(search, (holder,))

    def _announce(self, search: _Search, asked: Sequence[str]) -> tuple[QueryDriver, Requester]:
        """Begin one attempt."""
        terms = _terms(search.request)
        machine = Requester(
            self.name, self._router(), asked, terms, None, self.threads, search.warrant, self.notary
        )  # fmt: skip
        return self.drive(machine), machine

    def _warrant(self, request: SearchRequest, number: str, justification: Justification) -> Warrant:
        now = int(time.time())
        identified = request.aim == "verify"
        asked = Request(
            self.name, number, request.purpose, identified, now, now + WARRANT_SECONDS, request.holders
        )  # fmt: skip
        return issue_warrant(asked, justification, request.template)

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
        name: _failure(error, name)
        for name, error in driver.failed_peers.items()
        if name in asked and (alone or not isinstance(error, Silence))
    }
    error = machine.sessions[""].failure
    if failed:
        return failed
    router = driver.failed_peers.get(machine.router)
    if isinstance(router, (PeerRefused, PeerUnreachable)):
        return {name: _failure(router, machine.router) for name in asked}
    if isinstance(error, PeerAborted) and error.code != "timeout":
        # Whom a holder names is its word: on it nobody loses a turn, and each is asked alone.
        return {error.peer: _failure(error, error.peer)} if error.peer in asked and error.by == error.peer else {}
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
            return _failure(machine.false_refusal, machine.name)
        status = {"released": "candidates", "no_hit": "no hit", "too_many_candidates": "too many candidates"}
        return HolderAnswer(status[answer.status], answer.references, f"{used:f}")  # type: ignore[arg-type]
    router = driver.failed_peers.get(machine.router)
    if holder not in driver.failed_peers and isinstance(router, (PeerRefused, PeerUnreachable)):
        return _failure(router, machine.router)
    return _failure(driver.failed_peers.get(holder, session.failure), holder)


def _failure(error: LineupError | None, whose: str) -> HolderAnswer:
    """Refused if somebody said so, unreachable if somebody said nothing; `by` names who. `whose`: whose line it was."""
    if isinstance(error, FalseRefusal):
        return HolderAnswer("refused", reason="false-refusal")
    by = getattr(error, "by", "") or getattr(error, "peer", "") or whose
    code = error.code if isinstance(error, (PeerRefused, PeerAborted, QueryRefused)) else None
    if code == "timeout" or isinstance(error, PeerUnreachable):
        return HolderAnswer("unreachable", reason="timeout", by=by)
    return HolderAnswer("refused", reason=code or _own(error), by=by)


def _own(error: LineupError | None) -> str:
    """The code of an error that this node found by itself."""
    return "internal" if error is None else abort_code(error)
