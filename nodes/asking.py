"""The requester's node: joint queries for its operator. Many holders at once, and every answer has a name."""

from __future__ import annotations

import secrets
import time
from decimal import Decimal
from functools import partial

import numpy as np

from nodes.config import Role
from nodes.driver import QueryDriver, Silence
from nodes.node import Node
from nodes.outbox import PeerRefused, PeerUnreachable
from nodes.search import HolderAnswer, SearchReport, SearchRequest
from pets.errors import InputError, LineupError
from pets.params import preset
from protocol.errors import PeerAborted
from protocol.machine import Session, State
from protocol.outcome import Answer
from protocol.requester import Requester
from protocol.terms import Terms, parse_decimal
from protocol.warrant import Justification, Request, issue_warrant

WARRANT_SECONDS = 3600


class AskingNode(Node):
    """Adds `search` to a node."""

    async def search(self, request: SearchRequest) -> SearchReport:
        """Ask all holders; ask again without those that refuse or cannot be reached. Raises `InputError`.

        Every attempt is a fresh query: new identity, key and randomness.
        """
        self._check(request)
        justification = _justification(request)
        terms = Terms(
            parse_decimal(request.threshold, "threshold"),
            len(request.template),
            preset(request.preset),
            request.cap,
            parse_decimal(request.ladder, "ladder step"),
            request.model,
        )
        number = f"{self.name}-{secrets.token_hex(8)}"
        remaining, answers, queries = list(request.holders), {}, []
        offline = online = 0.0
        while remaining:
            now = int(time.time())
            warrant = issue_warrant(
                Request(self.name, number, request.purpose, request.aim == "verify", now, now + WARRANT_SECONDS),
                justification,
            )
            machine = Requester(self.name, self._router(), remaining, terms, None, self.threads, warrant, self.notary)
            queries.append(machine.query.hex())
            started = time.perf_counter()
            driver = self.drive(machine)
            await _until(driver, lambda m=machine: m.ready or m.sessions[""].state is State.ABORTED)
            offline += time.perf_counter() - started
            if machine.sessions[""].state is State.ABORTED:
                failed = _culprits(driver, machine, remaining)
                answers.update(failed)
                remaining = [name for name in remaining if name not in failed]
                continue
            started = time.perf_counter()
            self.keeper.keep_probe(machine, request.template, justification)
            driver.call(partial(machine.submit, np.frombuffer(request.template, np.int8)))
            await _until(driver, lambda d=driver: d.over)
            online += time.perf_counter() - started
            self.metrics.searched(time.perf_counter() - started)
            answers.update({name: _answer(driver, machine, name) for name in remaining})
            break
        ordered = {name: answers[name] for name in request.holders}
        return SearchReport(number, tuple(queries), ordered, offline, online)

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


async def _until(driver: QueryDriver, condition: object) -> None:
    assert callable(condition)
    while not condition():
        driver.changed.clear()
        if condition():
            return
        await driver.changed.wait()


def _culprits(driver: QueryDriver, machine: Requester, asked: list[str]) -> dict[str, HolderAnswer]:
    """Why the set-up failed, by holder; at least one is named, so that asking again ends."""
    failed = {name: _failure(error) for name, error in driver.failed_peers.items() if name in asked}
    error = machine.sessions[""].failure
    if not failed and isinstance(error, PeerAborted) and error.peer in asked:
        failed[error.peer] = _failure(error)
    if not failed:
        # The router, or something that is nobody's fault: no holder can be asked.
        failed = {name: _failure(error) for name in asked}
    return failed


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
    """Refused if the peer said so, unreachable if it said nothing."""
    if isinstance(error, (PeerRefused, PeerAborted)):
        return HolderAnswer("refused", reason=error.code)
    if isinstance(error, (PeerUnreachable, Silence)):
        return HolderAnswer("unreachable", reason="no answer")
    return HolderAnswer("refused", reason=type(error).__name__ if error is not None else "stopped")
