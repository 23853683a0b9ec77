"""The requester's node: joint queries for its operator. Many holders at once, and every answer has a name."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from decimal import Decimal
from functools import partial
from typing import Any, Literal

import msgspec
import numpy as np

from nodes.config.schema import Role
from nodes.query.driver import InternalError, QueryDriver, Silence
from nodes.service.node import Node, answered
from nodes.service.operator_api import (
    STANDING,
    HolderAnswer,
    PrepareRequest,
    Progress,
    SearchReport,
    SearchRequest,
    SearchUnderWay,
    Stage,
    Standing,
)
from nodes.service.preparer import Making, Preparer, Told
from nodes.service.supply import Supply
from nodes.service.together import to_the_end, together
from nodes.transport.send_queue import PeerRefused, PeerUnreachable
from pets.errors import InputError, LineupError
from pets.params import norm_bound, preset
from protocol.announcing import Plan
from protocol.errors import FalseRefusal, PeerAborted, PreparationSpent, QueryRefused
from protocol.machine import abort_code
from protocol.messages import FOUND_IN_OTHERS, Warrant
from protocol.outcome import Answer
from protocol.party import Context
from protocol.preparation import RequesterPreparation
from protocol.preparing import PreparingRequester
from protocol.roles import Parties
from protocol.searching import SearchingRequester
from protocol.session import Session, State
from protocol.terms import Terms, parse_decimal
from protocol.warrant import Justification, Request, issue_warrant

RequesterMachine = PreparingRequester | SearchingRequester

log = logging.getLogger("lineup.requester")

WARRANT_SECONDS = 3600
MOST_LOST = 2  # attempts of a holder's in a search whose preparation a peer has no more, before that is an error
SIDE_BY_SIDE = 4  # attempts with one holder each, after one with all of them failed and nobody was to blame


@dataclass(frozen=True)
class Approved:
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
    warrant: Warrant  # of every attempt: it names the one probe and all holders
    begins: Callable[[bytes], None]
    told: Told
    answers: dict[str, HolderAnswer] = field(default_factory=dict)
    stages: dict[str, Stage] = field(default_factory=dict)
    machines: dict[str, SearchingRequester] = field(default_factory=dict)  # by holder: the attempt it is in
    answered_in: dict[str, str] = field(default_factory=dict)
    queries: list[str] = field(default_factory=list)
    prepared: Literal["waiting", "now"] = "waiting"  # until something had to be prepared for it
    lied: bool = False  # somebody refused its probe falsely
    lost: Counter[str] = field(default_factory=Counter)  # by holder, attempts whose preparation a peer had no more
    preparing: float = 0.0
    offline: float = 0.0
    online: float = 0.0
    side_by_side: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(SIDE_BY_SIDE))

    def prepares(self, asked: Sequence[str], progress: Progress) -> None:
        """A preparation is being made for these holders."""
        for name in asked:
            self.stages[name] = Stage("preparing", *progress.by_holder.get(name, (0, 0)))
        self.told(progress)

    def asks(self, machine: SearchingRequester, asked: Sequence[str], prepared: Literal["waiting", "now"]) -> None:
        """An attempt begins with these holders."""
        self.machines.update(dict.fromkeys(asked, machine))
        self.stages.update(dict.fromkeys(asked, Stage("searching", prepared=prepared)))
        self.told(Progress("searching"))

    def ends(self, answers: Mapping[str, HolderAnswer]) -> None:
        """These holders' parts are over; some may be asked once more."""
        self.answers.update(answers)
        for name, answer in answers.items():
            before = self.stages.get(name)
            self.stages[name] = Stage("over", prepared=before.prepared if before else None, answer=answer.status)

    def refused_falsely(self, asked: Sequence[str]) -> bool:
        """Whether somebody lied about its probe: then these holders' parts are over too."""
        if self.lied:
            self.ends(dict.fromkeys(asked, HolderAnswer("refused", reason="false-refusal")))
        return self.lied

    @property
    def under_way(self) -> SearchUnderWay:
        """As the operator may see it."""
        return SearchUnderWay(
            self.number, {name: self._stage(name) for name in self.request.holders if name in self.stages}
        )

    def _stage(self, name: str) -> Stage:
        stage = self.stages[name]
        if stage.phase == "searching" and self.machines[name].sessions[name].state is State.FINISHED:
            return Stage("over", prepared=stage.prepared)
        return stage


class RequesterNode(Node):
    """Adds `search` and `prepare` to a node."""

    _searches = 0

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._asked: list[_Search] = []
        self._refused_until: dict[str, date | None] = {}  # by holders, for the limit of releases
        self._preparer = Preparer(self)
        self.supply = Supply(self, self._preparer, _not_prepared)

    @property
    def idle(self) -> bool:
        """As `Node.idle`; no search waits for its next attempt either."""
        return super().idle and not self._searches

    async def search(
        self, request: SearchRequest, approved: Approved | None = None, told: Told = lambda _: None
    ) -> SearchReport:
        """Ask all holders; ask again without those that refuse or cannot be reached. `approved`: by the casework.

        Uses a preparation that waits, or makes one: `told` hears how far that is. Raises `InputError`, and
        `PeerRefused` (capacity) from a node that is shutting down. Every attempt is a fresh query: new ID, key
        and randomness. When an attempt fails and no holder is to blame, each is asked alone.
        """
        self._check(request)
        if self.draining:
            raise PeerRefused(self.name, "capacity")
        self._searches += 1
        try:
            return await self._search(request, approved or self._unapproved(request), told)
        finally:
            self._searches -= 1
            wanted = PrepareRequest(request.holders, 1, len(request.template), request.model, request.preset)
            await asyncio.to_thread(self.supply.searched, wanted)

    @property
    def searching(self) -> bool:
        """Whether a search is under way, even if just now none of its conversations is."""
        return self._searches > 0

    def searches(self) -> list[SearchUnderWay]:
        """Searches under way, from their first preparation on, and where each holder's part is. No personal data."""
        return [search.under_way for search in self._asked]

    def _unapproved(self, request: SearchRequest) -> Approved:
        return Approved(f"{self.name}-{secrets.token_hex(8)}", _justification(request), lambda query: None)

    async def _search(self, request: SearchRequest, approved: Approved, told: Told) -> SearchReport:
        number, justification = approved.number, approved.justification
        warrant = self._warrant(request, number, justification)
        search = _Search(request, number, justification, warrant, approved.begins, told)
        self._asked.append(search)
        try:
            await self._ask(search, request.holders)
            await self._ask_standing(search.answers)
        finally:
            self._asked.remove(search)
        return SearchReport(
            request_number=search.number,
            queries=tuple(search.queries),
            answers={name: search.answers[name] for name in request.holders},
            seconds_offline=search.offline,
            seconds_online=search.online,
            answered_in=search.answered_in,
            prepared=search.prepared,
            seconds_preparing=search.preparing,
        )

    async def _ask(self, search: _Search, asked: Sequence[str]) -> None:
        """One attempt; then others with those that are still without an answer."""
        if search.refused_falsely(asked):
            return
        plan = plan_of(search.request)
        # Once a peer had lost its part of one that waited, no other that waits is tried with these holders.
        lost = any(search.lost[name] for name in asked)
        made = None if lost else await self._preparer.find(asked, plan)
        if made is not None:
            await self._ask_with(search, asked, made, "waiting")
            return
        try:
            router = self.router
        except InputError as error:  # removed since the search began: what others have answered stays
            log.error("search without a router", extra={"error": type(error).__name__})
            search.ends({name: HolderAnswer("refused", reason="state", by=self.name) for name in asked})
            return
        search.prepared = "now"
        started = time.perf_counter()
        making = await self._preparer.make(router, asked, plan, partial(search.prepares, asked))
        search.preparing += time.perf_counter() - started
        search.offline += time.perf_counter() - started
        driver, machine, made = making.driver, making.machine, making.made
        self._look_for_lies(machine)
        if machine.whole.state is not State.FINISHED:
            await self._ask_others(search, driver, machine, asked)
            return
        able = [name for name in asked if made is not None and name in made.rings]
        missing = [name for name in asked if name not in able]
        search.ends({name: _answer(driver, machine, None, name) for name in missing})
        if made is not None:
            await self._ask_with(search, able, made, "now")
        if len(asked) > 1:
            await self._ask_each(search, [name for name in missing if _may_ask_again(driver, machine, name)])

    async def _ask_with(
        self,
        search: _Search,
        asked: Sequence[str],
        made: RequesterPreparation,
        prepared: Literal["waiting", "now"],
    ) -> None:
        """One query with a preparation, which serves no other whatever comes of it.

        Not once somebody refused the probe falsely: who did so learns something of it, and would again.
        """
        if search.refused_falsely(asked):  # meanwhile
            await to_the_end(asyncio.to_thread(self._preparer.give_up, made))
            return
        try:
            driver, machine = await self._query(search, asked, made, prepared)
        finally:
            await to_the_end(asyncio.to_thread(self._preparer.give_up, made))
        search.lied |= self._look_for_lies(machine)
        if machine.whole.state is not State.FINISHED:
            again = all(search.lost[name] < MOST_LOST for name in asked)
            if again and _lost_half(driver, machine):  # a peer has restarted, or its gallery changed
                search.lost.update(asked)
                await self._ask(search, asked)
            else:
                await self._ask_others(search, driver, machine, asked)
            return
        search.ends({name: _answer(driver, machine, machine.answers.get(name), name) for name in asked})
        search.answered_in.update(dict.fromkeys(asked, machine.query.hex()))
        if len(asked) > 1:
            # Whose part ended before it began to answer is there, and another may have been at fault: asked alone.
            await self._ask_each(search, [name for name in asked if _may_ask_again(driver, machine, name)])

    async def _query(
        self, search: _Search, asked: Sequence[str], made: RequesterPreparation, prepared: Literal["waiting", "now"]
    ) -> tuple[QueryDriver, SearchingRequester]:
        started = time.perf_counter()
        machine = self._machine_for(search, asked, made)
        search.queries.append(machine.query.hex())
        await asyncio.to_thread(search.begins, machine.query)
        search.asks(machine, asked, prepared)
        driver = self.drive(machine)
        try:
            await _until(driver, lambda: machine.ready or machine.whole.state.over)
            search.offline += time.perf_counter() - started
            started = time.perf_counter()
            if machine.ready:
                driver.call(partial(machine.submit, np.frombuffer(search.request.template, np.int8)))
                await driver.until_finished()
                search.online += time.perf_counter() - started
                if answered(machine):
                    self.metrics.searched(time.perf_counter() - started)
            await driver.until_finished()  # also where it is over before: what it uses is erased next
        except BaseException as error:
            await driver.break_off(error)
            raise
        return driver, machine

    async def _ask_others(
        self, search: _Search, driver: QueryDriver, machine: RequesterMachine, asked: Sequence[str]
    ) -> None:
        """An attempt that failed before anything was asked: once more without who is to blame."""
        failed = _culprits(driver, machine, asked)
        rest = [name for name in asked if name not in failed]
        search.ends(failed)
        if failed and rest:
            await self._ask(search, rest)
        elif len(rest) > 1:
            await self._ask_each(search, rest)
        else:
            search.ends({name: _failure(_reason(driver, machine, machine.whole), self.name) for name in rest})

    async def _ask_each(self, search: _Search, holders: Sequence[str]) -> None:
        """Each alone, some side by side."""

        async def ask(holder: str) -> None:
            async with search.side_by_side:
                await self._ask(search, (holder,))

        await together(map(ask, holders))

    async def _ask_standing(self, answers: Mapping[str, HolderAnswer]) -> None:
        """Of those that refused for a quota: is it the limit of releases, and when does it end? For `standing`."""
        for holder, answer in answers.items():
            if answer.reason == "quota" and answer.by == holder:
                try:
                    told = await self.transport.ask(holder, STANDING)
                    self._refused_until[holder] = msgspec.json.decode(told, type=Standing).refused_until
                except Exception as error:  # whatever it is, the answers stay
                    log.warning("standing not told", extra={"peer": holder, "error": type(error).__name__})

    def standing(self) -> list[str]:
        """As `Node.standing`, and which holders refuse this state."""
        today = datetime.now(timezone.utc).date()
        refused = {name: day for name, day in self._refused_until.items() if day is not None and day > today}
        return [*super().standing(), *(f"{name} refuses {self.name} until {day}" for name, day in refused.items())]

    def _look_for_lies(self, machine: RequesterMachine) -> bool:
        """Tell the operator where somebody lied about a mask or a probe that was checked here. Whether anybody did."""
        lies = [session.failure for session in machine.sessions.values() if isinstance(session.failure, FalseRefusal)]
        if lies:
            self.metrics.refused_falsely()
            query, lie = machine.query.hex(), lies[0]
            log.error("false refusal", extra={"query": query, "peer": lie.holder, "error": type(lie).__name__})
            self.alarms.append(f"query {query}: {lie}")
        return bool(lies)

    def _machine_for(self, search: _Search, asked: Sequence[str], made: RequesterPreparation) -> SearchingRequester:
        """One attempt, not yet begun."""

        def keep(machine: SearchingRequester) -> None:
            self.archive.keep_probe(machine, search.request.template, search.justification)

        conversation = secrets.token_bytes(16)
        context = Context(
            self.name, conversation, Parties(self.name, made.router, tuple(asked)), self.threads,
            keyring=self.keyring, recorder=self.recorder(conversation), spend=self.pool.spend, keep=keep,
        )  # fmt: skip
        return SearchingRequester(context, terms_of(search.request), made, search.warrant)

    def _warrant(self, request: SearchRequest, number: str, justification: Justification) -> Warrant:
        now = int(time.time())
        identified = request.aim == "verify"
        asked = Request(
            self.name, number, request.purpose, identified, now, now + WARRANT_SECONDS, request.holders
        )  # fmt: skip
        return issue_warrant(asked, justification, request.template)

    @property
    def router(self) -> str:
        """The one router among the peers. Raises `InputError`."""
        routers = [name for name, peer in self.peers.items() if peer.role is Role.ROUTER]
        if len(routers) != 1:
            raise InputError(f"{self.name} needs exactly one router among its peers, found {len(routers)}")
        return routers[0]

    def check_holders(self, holders: Sequence[str]) -> None:
        """Raise `InputError` unless these are holders among the peers, each named once, and there is one router."""
        if len(set(holders)) != len(holders):
            raise InputError(f"a holder is named twice: {', '.join(holders)}")
        for name in holders:
            if name not in self.peers or self.peers[name].role is not Role.HOLDER:
                known = sorted(peer.name for peer in self.peers.values() if peer.role is Role.HOLDER)
                raise InputError(f"{name} is not a holder among the peers of {self.name}: {', '.join(known)}")
        _ = self.router

    def _check(self, request: SearchRequest) -> None:
        if self.config.role is not Role.REQUESTER:
            raise InputError(f"{self.name} is a {self.config.role.value}; only a requester can ask")
        self.check_holders(request.holders)
        terms_of(request)
        template = np.frombuffer(request.template, np.int8).astype(np.int64)
        if int(template @ template) > norm_bound(len(template)) or int(template.min()) < -127:
            raise InputError("the probe is not a quantised unit vector")


def terms_of(request: SearchRequest) -> Terms:
    """The terms that an operator asks for. Raises `ParameterError`."""
    return Terms(
        parse_decimal(request.threshold, "threshold"),
        len(request.template),
        preset(request.preset),
        request.cap,
        parse_decimal(request.ladder, "ladder step"),
        request.model,
    )


def plan_of(request: SearchRequest) -> Plan:
    """What must be prepared for a search. Raises `ParameterError`."""
    return Plan(preset(request.preset), len(request.template), request.model)


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


async def _until(driver: QueryDriver, condition: Callable[[], bool]) -> None:
    while not condition() and not driver.finished:
        driver.changed.clear()
        await driver.changed.wait()


def _not_prepared(making: Making, asked: Sequence[str]) -> dict[str, HolderAnswer]:
    """Of the holders that a preparation was tried with, those that have no ring in it, and why."""
    driver, machine = making.driver, making.machine
    rings = making.made.rings if making.made is not None else {}
    missing = [name for name in asked if name not in rings]
    if machine.whole.state is State.FINISHED:
        return {name: _answer(driver, machine, None, name) for name in missing}
    failed = _culprits(driver, machine, asked)
    return failed or {name: _failure(_reason(driver, machine, machine.whole), machine.name) for name in missing}


def _culprits(driver: QueryDriver, machine: RequesterMachine, asked: Sequence[str]) -> dict[str, HolderAnswer]:
    """Why the set-up failed, by holder; all of them if it was the router; nobody if that cannot be told."""
    # Whoever is silent may be waiting for another holder that is: among several, silence says nothing of anybody.
    alone = len(asked) == 1
    failed = {
        name: _failure(error, name)
        for name, error in driver.failed_peers.items()
        if name in asked and (alone or not isinstance(error, Silence))
    }
    error = machine.whole.failure
    if failed:
        return failed
    router = driver.failed_peers.get(machine.parties.router)
    if isinstance(router, (PeerRefused, PeerUnreachable)):
        return {name: _failure(router, machine.parties.router) for name in asked}
    if not isinstance(error, PeerAborted) or error.peer not in asked or error.by != error.peer:
        return {}  # whom a holder names is its word: on it nobody loses a turn, and each is asked alone
    # So it is where it found something wrong in others: another holder, or the router, may have lied to it alone.
    about_itself = error.code not in FOUND_IN_OTHERS or (alone and error.code != "timeout")
    return {error.peer: _failure(error, error.peer)} if about_itself else {}


def _lost_half(driver: QueryDriver, machine: SearchingRequester) -> bool:
    """Whether a party no longer has its part of the preparation, or this node used it and a restore forgot that."""
    errors = [*driver.failed_peers.values(), *(session.failure for session in machine.sessions.values())]
    return any(isinstance(error, PreparationSpent) or getattr(error, "code", None) == "unprepared" for error in errors)


def _may_ask_again(driver: QueryDriver, machine: RequesterMachine, holder: str) -> bool:
    """Whether a holder's part of a joint query ended because somebody was silent, or found something wrong in others.

    That is no answer, refusal or dead line. In a search never once the holder has begun to answer: it waits for no
    other holder then, and who stops after it was given numbers (or the router, after a guess) would have the same probe
    asked a second time.
    """
    session, given_up = machine.sessions[holder], driver.failed_peers.get(holder)
    if isinstance(machine, SearchingRequester) and session.received[holder]:
        return False
    if given_up is not None:
        return isinstance(given_up, Silence)
    failure = session.failure
    return isinstance(failure, Silence) or (isinstance(failure, PeerAborted) and failure.code in FOUND_IN_OTHERS)


def _answer(driver: QueryDriver, machine: RequesterMachine, answer: Answer | None, holder: str) -> HolderAnswer:
    """How a holder's part ended. `answer`: what it answered; None if it did not."""
    session = machine.sessions[holder]
    if answer is not None and session.state is State.FINISHED:
        used: Decimal = answer.threshold_used
        status = {"released": "candidates", "no_hit": "no hit", "too_many_candidates": "too many candidates"}
        return HolderAnswer(status[answer.status], answer.hits, f"{used:f}")  # type: ignore[arg-type]
    if session.state is State.FINISHED:  # and yet nothing came of it: this node could not keep what was made
        return _failure(None, machine.name)
    router = driver.failed_peers.get(machine.parties.router)
    if holder not in driver.failed_peers and isinstance(router, (PeerRefused, PeerUnreachable)):
        return _failure(router, machine.parties.router)
    error = driver.failed_peers.get(holder) or _reason(driver, machine, session)
    return _failure(error, machine.name if isinstance(error, InternalError) else holder)


def _reason(driver: QueryDriver, machine: RequesterMachine, session: Session) -> LineupError | None:
    """Why a session ended. A peer that waited for this node in vain waited for the party that this node waited for."""
    failure = session.failure
    if isinstance(failure, PeerAborted) and failure.code == "timeout" and failure.by == machine.name:
        awaited = [name for name in driver.awaited.get(session.name, ()) if name != failure.peer]
        if len(awaited) == 1:
            return Silence(f"{awaited[0]} said nothing", awaited[0])
    return failure


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
