"""Everything a node keeps of conversations: transcript, evidence, the Article 40 log, what is sealed for audits."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from contextlib import suppress
from pathlib import Path

from nodes.config.storage_key import storage_key
from nodes.evidence import followed_up, links, sealed, under_way
from nodes.evidence.ledger import Ledger
from nodes.evidence.recorder import Recorder
from nodes.evidence.witnesses import WITNESSED, Witnesses
from nodes.identity.identity import NodeIdentity
from nodes.logs.entries import ArticleForty, Kind, retention_end
from nodes.logs.errors import EntryErased, OrderRefused
from nodes.logs.holds import Order, decode_order
from nodes.logs.log import TamperEvidentLog
from nodes.logs.of_node import open_log
from nodes.verify.format import Direction
from protocol.follow_up import Statement
from protocol.party import Party
from protocol.preparing import PreparingHolder, PreparingRequester, PreparingRouter
from protocol.roles import Parties
from protocol.searching import SearchingHolder, SearchingRequester, SearchingRouter
from protocol.session import Event, State
from protocol.warrant import Justification

log = logging.getLogger("lineup.archive")

LAST_ENTRIES = 1000  # looked at for a search that was cut off, whatever their time: a clock may have been set back


class Archive:
    """Opens the logs of a node's folder, verifying them, and keeps each conversation, preparation or search.

    Raises what a damaged log raises.
    """

    def __init__(self, identity: NodeIdentity, folder: Path) -> None:
        self.folder = folder
        # A checkpoint over a log that another query is just being added to would look like tampering.
        self.writing = threading.RLock()
        self.key = storage_key(identity.config)
        self.transcript = open_log(identity, folder, "transcript")
        self.article_forty = open_log(identity, folder, "article-40")
        self.logs: dict[Kind, TamperEvidentLog] = {"transcript": self.transcript, "article-40": self.article_forty}
        self._gallery = open_log(identity, folder, "gallery")  # not among `logs`: peers are told nothing of it
        self.ledger = Ledger(identity, self._gallery, self.writing)
        self.witnesses = Witnesses(folder / WITNESSED)
        self._recorder = Recorder(folder / "evidence", self.transcript, self.writing)
        self._started: dict[bytes, int] = {}
        self._enter_cut_off()

    def begin(self, conversation: bytes, search: Parties | None = None) -> None:
        """A conversation starts now; `end` ends it.

        `search`: who takes part, if it is one, which is then noted in case the node is killed.
        """
        started = self._started[conversation] = _now()
        if search is not None:
            entry = ArticleForty(search.requester, started, None, tuple(sorted(search.holders)), ())
            try:
                under_way.begin(self.folder, self.key, conversation, entry)
            except OSError as error:  # a disk that is full stops the search where its records must be written
                log.warning("a search is not noted as under way", extra={"error": type(error).__name__})
        self._recorder.begin(conversation)

    def record(self, conversation: bytes, event: Event) -> None:
        """Keep what a machine sends or consumes in a conversation that has begun."""
        self._recorder.record(conversation, event)

    def keep_probe(self, machine: SearchingRequester, template: bytes, justification: Justification) -> None:
        """Seal probe and seeds before they are used."""
        content = sealed.of_requester(machine, template, justification)
        sealed.keep(self.folder / "sealed", self.key, machine.query, content)

    def keep_holder(self, machine: SearchingHolder) -> None:
        """Seal the seeds before they are used, and what made the confirmation block before the block leaves."""
        sealed.keep(self.folder / "sealed", self.key, machine.query, sealed.of_holder(machine))

    def keep_preparation(self, machine: PreparingRequester | PreparingRouter | PreparingHolder) -> None:
        """Note which conversation made a preparation, once it is made and before it waits: evidence of a search needs
        it. Nothing is sealed while it waits."""
        self._recorder.flush(machine.query)
        links.note(self.folder, machine.preparation_id, machine.query)

    def keeps(self, query: bytes) -> bool:
        """Whether there is evidence of a conversation."""
        return (self.folder / "evidence" / query.hex()).exists()

    def newest(self, count: int) -> list[tuple[bytes, float]]:
        """The conversations whose evidence was written last, and when, seconds since 1970."""
        kept = [(path.stat().st_mtime, path.name) for path in (self.folder / "evidence").glob("[0-9a-f]" * 32)]
        return [(bytes.fromhex(name), time) for time, name in heapq.nlargest(count, kept)]

    def end(self, machine: Party) -> None:
        """A conversation is over: write everything, sign checkpoints. Raises what kept any of it from being written."""
        started = self._started.pop(machine.query)
        with self.writing:
            try:
                if isinstance(machine, (SearchingRequester, SearchingRouter, SearchingHolder)):
                    self.article_forty.append([article_forty(machine, started, _now())], _now())
                    self.article_forty.checkpoint(_now())
                    under_way.end(self.folder, machine.query)
            finally:
                self._recorder.end(machine.query)
                self.transcript.checkpoint(_now())

    def keep_statement(self, statement: Statement, direction: Direction, peer: str) -> None:
        """Put a statement of the follow-up into the transcript log and into its query's evidence."""
        with self.writing:
            followed_up.keep(self.folder / followed_up.FOLDER, self.transcript, statement, direction, peer, _now())
            self.transcript.checkpoint(_now())

    def obey(self, data: bytes) -> Order:
        """Put a supervisor's order for one of this node's logs into force. Raises `OrderRefused`, OSError."""
        order = decode_order(data)
        for journal in self.logs.values():
            if journal.header.log == order.log:
                with self.writing:
                    journal.obey(order)
                return order
        raise OrderRefused("the order is for a log of another node")

    def close(self) -> None:
        """Close the logs, once nobody writes any more."""
        self._recorder.close()
        with self.writing:
            self.transcript.close()
            self.article_forty.close()
            self._gallery.close()

    def _enter_cut_off(self) -> None:
        """Searches during which the node was killed: nobody is known to have replied. Once each, also if it is killed
        between the two steps, and if a note comes back that somebody copied."""
        for conversation, entry in under_way.cut_off(self.folder, self.key):
            if retention_end(entry.request_time) > _now() and not self._is_entered(entry):
                self.article_forty.append([entry], _now())
                self.article_forty.checkpoint(_now())
            try:
                under_way.end(self.folder, conversation)
            except OSError as error:
                log.warning("a note of a search stays", extra={"error": type(error).__name__})

    def _is_entered(self, entry: ArticleForty) -> bool:
        """Whether one of the last entries is this one, or one of those made since the request."""
        size = self.article_forty.size
        for index in range(size - 1, -1, -1):
            with suppress(EntryErased):
                if index < size - LAST_ENTRIES and self.article_forty.created(index) < entry.request_time:
                    return False
                kept = self.article_forty.read(index)
                assert isinstance(kept, ArticleForty)
                if (kept.requester, kept.request_time, kept.asked) == (
                    entry.requester, entry.request_time, entry.asked,
                ):  # fmt: skip
                    return True
        return False


def article_forty(machine: Party, started: int, ended: int) -> ArticleForty:
    """The Article 40(1) entry of a query: its five fields and no other."""
    asked = machine.parties.holders
    replied = [name for name in asked if name in machine.sessions and _replied(machine.sessions[name].state)]
    replied_at = max(started, ended) if replied else None  # a clock may have been set back
    return ArticleForty(machine.parties.requester, started, replied_at, tuple(sorted(asked)), tuple(sorted(replied)))


def _replied(state: State) -> bool:
    """Whether a holder's part came to an end of its own; a refused probe is an answer too."""
    return state in (State.FINISHED, State.REFUSED)


def _now() -> int:
    return int(time.time() * 1000)
