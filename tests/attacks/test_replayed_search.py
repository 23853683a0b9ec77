"""An old search replayed to a holder that was restored alone; each attack with its control.

The requester cheats: it has the frames that the router sent to the holder in a first search, announces that search
again in the same words, and sends another u. The router remembers that the preparation was used, and takes no part.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import protocol.announcing
from pets.mask_encryption import draw_mask
from pets.params import SHARE_BITS
from pets.planes import from_planes
from protocol import wire
from protocol.announcing import derive_id
from protocol.difference import difference, pack_difference
from protocol.errors import Disagreement
from protocol.messages import Abort, DerivedId, Joined, MaskedScores, Message
from protocol.party import Context
from protocol.searching import SearchingHolder, SearchingRouter
from protocol.session import WHOLE
from protocol.work import perform
from tests.kit.parties import HOLDER, REQUESTER, ROUTER, forge
from tests.kit.ring import RING
from tests.kit.scene import DIM, faces, small_trio
from tests.kit.trio import copied

pytestmark = pytest.mark.ring


class Replay:
    """A first search to its end, and then a holder that has forgotten it."""

    def __init__(self) -> None:
        self.first = small_trio().prepare()
        made = self.first.made
        assert made is not None
        self.backup, self.seed = copied(made), made.requester.seed
        self.first.search(faces()[0])
        assert self.first.outcome().hits
        held = self.first.holder.context
        self.holder = SearchingHolder(
            Context(HOLDER, held.conversation, held.parties), self.first.galleries[HOLDER], self.backup.holders[HOLDER]
        )
        self.holder.start()

    def frames(self, sender: str, session: str) -> list[bytes]:
        """What a party sent to the holder in the first search."""
        sent = [d for d in self.first.deliveries if (d.sender, d.receiver) == (sender, HOLDER)]
        return [
            d.frame
            for d in sent
            if (envelope := wire.decode(d.frame)).query == self.first.requester.query and envelope.session == session
        ]

    def search_again(self, probe: npt.NDArray[np.int8]) -> None:
        """The announcement and the router's frames as they were; then u for another probe, under the new id."""
        for frame in self.frames(REQUESTER, WHOLE):
            self.holder.handle(frame, REQUESTER)
        joined = self.said(Joined, ROUTER)
        old: Any = self.first.sent(Joined, ROUTER)[0].message
        preparation_id = derive_id(self.first.requester.announce, {HOLDER: joined, ROUTER: old})
        for frame in (*self.frames(ROUTER, WHOLE), self.frames(ROUTER, HOLDER)[0]):
            self.holder.handle(frame, ROUTER)
        mask = draw_mask(self.seed, self.backup.requester.preparation_id, DIM, RING)
        u = pack_difference(difference(probe, mask, RING), RING, preparation_id)
        self.holder.handle(forge(self.frames(REQUESTER, HOLDER)[0], query_id=u.query_id, data=u.data), REQUESTER)

    def said(self, kind: type[Message], receiver: str) -> Any:
        """The holder's message of a kind, in the replayed search."""
        frames = (wire.decode(frame) for to, frame in self.holder.outgoing if to == receiver)
        return next(frame.message for frame in frames if isinstance(frame.message, kind))


def scores(message: MaskedScores) -> npt.NDArray[np.int64]:
    """e of the rows."""
    planes = np.frombuffer(message.data, "<u8").reshape(SHARE_BITS, -1).astype(np.uint64)
    return from_planes(planes).astype(np.int64)[:200]


def test_a_holder_restored_alone_is_not_shown_an_old_search_of_the_routers() -> None:
    replay = Replay()
    with pytest.raises(Disagreement, match="another id"):
        replay.search_again(faces()[1])
    assert not [frame for _, frame in replay.holder.outgoing if isinstance(wire.decode(frame).message, MaskedScores)]
    assert all(session.state.over for session in replay.holder.sessions.values())


def test_control_without_the_comparison_of_ids_it_publishes_score_differences_of_every_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol.announcing, "check_same_id", lambda *_: None)
    probe, stranger, rows = faces()
    replay = Replay()
    replay.search_again(stranger)
    while replay.holder.wanted:
        session, want = replay.holder.wanted.popleft()
        replay.holder.supply(session, want, perform([want], 1)[0])
    first: Any = replay.first.sent(MaskedScores, HOLDER, REQUESTER)[0].message
    gap = (scores(first) - scores(replay.said(MaskedScores, REQUESTER))) % 2**SHARE_BITS
    gap[gap >= 2 ** (SHARE_BITS - 1)] -= 2**SHARE_BITS
    due = rows.astype(np.int64) @ (probe.astype(np.int64) - stranger)
    assert np.abs(gap / 16 - due).max() < 0.5


class ReplayToRouter:
    """The other way round: the router alone was restored, and hears what the holder said in the first search."""

    def __init__(self) -> None:
        replay = Replay()
        self.first, held = replay.first, replay.first.router.context
        self.router = SearchingRouter(Context(ROUTER, held.conversation, held.parties), replay.backup.router)
        self.router.start()
        self.feed(REQUESTER, WHOLE)
        self.feed(HOLDER, WHOLE)

    def feed(self, sender: str, session: str) -> None:
        for d in self.first.deliveries:
            envelope = wire.decode(d.frame)
            if (d.sender, d.receiver, envelope.query, envelope.session) == (
                sender, ROUTER, self.router.query, session
            ):  # fmt: skip
                self.router.handle(d.frame, sender)

    @property
    def computed(self) -> bool:
        """Whether it said more in the ring than the id."""
        kinds = {type(e.message) for _, f in self.router.outgoing if (e := wire.decode(f)).session == HOLDER}
        return bool(kinds - {DerivedId, Abort})


def test_a_router_restored_alone_is_not_shown_an_old_search_of_the_holders() -> None:
    replay = ReplayToRouter()
    replay.feed(REQUESTER, HOLDER)
    with pytest.raises(Disagreement, match="another id"):
        replay.feed(HOLDER, HOLDER)
    assert not replay.computed


def test_control_without_the_comparison_of_ids_the_router_begins_to_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol.announcing, "check_same_id", lambda *_: None)
    replay = ReplayToRouter()
    replay.feed(REQUESTER, HOLDER)
    with suppress(Disagreement):  # the requester's old hash is of the old id; one that cheats makes another
        replay.feed(HOLDER, HOLDER)
    assert replay.computed
