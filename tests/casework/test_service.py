"""The follow-up's door at a running node: who may knock, and what hostile documents get."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from nodes.casework import candidates, cases, inbox
from nodes.casework.errors import StatementRefused
from nodes.casework.tables import StatementRow
from nodes.config.casework import CaseworkConfig
from nodes.identity.identity import NodeKeyring
from nodes.service import follow_up
from nodes.service.follow_up import BODY_LIMIT, PATH
from protocol.documents import seal_document
from protocol.follow_up import Acknowledged, CandidatesWanted, Deleted, Recalled, Statement
from protocol.messages import ABORT_CODES
from tests.casework.test_whole_case import rounds, set_clock
from tests.kit.casework import Clock, Staff, draft, open_desk, reference_of, staffed
from tests.kit.federation import DE, ES, EU, FR, Federation, found, request
from tests.kit.network import AsgiNetwork, running


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return found(tmp_path_factory.mktemp("follow-up"))


def at(federation: Federation, body: Callable[[AsgiNetwork], Awaitable[None]]) -> None:
    async def run() -> None:
        network = AsgiNetwork(federation)
        async with running(network):
            await body(network)

    asyncio.run(run())


async def knock(network: AsgiNetwork, caller: str | None, content: bytes, at_node: str = ES) -> tuple[int, str]:
    async with network.client(caller, at_node) as client:
        answer = await client.post(PATH, content=content)
    code = answer.json()["code"] if answer.headers["content-type"] == "application/json" else ""
    return answer.status_code, code


def statement(
    network: AsgiNetwork, sender: str, content: object, receiver: str = ES, query: bytes = bytes(16)
) -> Statement:
    made = Statement(1, query, sender, receiver, _now(), content)  # type: ignore[arg-type]
    return made.signed(NodeKeyring(network.nodes[sender].identity, {}))


def _now() -> int:
    import time

    return int(time.time() * 1000)


def test_strangers_routers_and_garbage_are_refused_with_a_closed_code(federation: Federation) -> None:
    async def body(network: AsgiNetwork) -> None:
        public = network.nodes[ES].identity.sealing.public
        query = bytes.fromhex((await network.search(request(federation.people.hit, (ES,)))).queries[0])
        await network.settle()
        good = seal_document(statement(network, FR, CandidatesWanted(3), query=query), b"", public)
        unknown = seal_document(statement(network, FR, CandidatesWanted(3)), b"", public)
        assert await knock(network, FR, unknown) == (409, "state")
        assert await knock(network, None, good) == (403, "state")
        assert await knock(network, "XX", good) == (403, "state")
        assert await knock(network, DE, good) == (400, "crypto")  # sealed by FR for ES: another sender cannot use it
        assert await knock(network, FR, b"") == (400, "crypto")
        assert await knock(network, FR, secrets.token_bytes(70_000)) == (400, "crypto")
        assert (await knock(network, FR, bytes(BODY_LIMIT + 1)))[0] == 413
        assert await knock(network, FR, good, EU) == (403, "state")  # nobody decides at the router
        assert (await knock(network, FR, good))[0] == 200  # the control
        for slots in (4, 5, 6, 7):
            again = seal_document(statement(network, FR, CandidatesWanted(slots), query=query), b"", public)
            assert (await knock(network, FR, again))[0] == 200
        too_often = seal_document(statement(network, FR, CandidatesWanted(8), query=query), b"", public)
        assert await knock(network, FR, too_often) == (409, "replay")

    at(federation, body)


def test_a_holder_may_not_say_what_a_requester_says(federation: Federation) -> None:
    async def body(network: AsgiNetwork) -> None:
        public = network.nodes[ES].identity.sealing.public
        forged = seal_document(statement(network, DE, Deleted(bytes(32), "not-needed")), b"", public)
        assert await knock(network, DE, forged) == (409, "state")

    at(federation, body)


def test_a_statement_waits_for_a_holder_that_is_down_and_arrives_once(federation: Federation) -> None:
    clock = Clock()

    async def body(network: AsgiNetwork) -> None:
        set_clock(network, clock)
        with open_desk(federation.folder(FR), clock) as fr:
            staff = staffed(fr)
            query = fr.open_query(staff.olga, draft(federation.people.hit, ES))
            fr.approve_launch(staff.anton, query, staff.sign("anton", "launch", query))
            follow_up = network.nodes[FR].follow_up
            assert follow_up is not None
            await follow_up._launch()
            await asyncio.gather(*follow_up._searches)
            await network.kill(ES)
            await follow_up.round()
            assert fr.candidates_for(staff.rita, query) == []
            await network.start(ES)
            await asyncio.to_thread(_try_again, follow_up)
            await rounds(network)
            assert len(fr.candidates_for(staff.rita, query)) == 1

    at(federation, body)


def _try_again(follow_up: object) -> None:
    from sqlalchemy import update

    from nodes.casework.tables import StatementRow

    with follow_up.desk.office.vault.writing() as session:  # type: ignore[attr-defined]
        session.execute(update(StatementRow).values(not_before=0))


def test_nothing_is_released_that_could_not_be_noted(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that cannot write down what it gives, gives nothing: a recall would not find it."""
    from nodes.store.errors import StoreFull

    def full(*_: object) -> None:
        raise StoreFull("the disk is full")

    async def body(network: AsgiNetwork) -> None:
        wanted = request(federation.people.hit, (ES,))
        with monkeypatch.context() as patch:
            patch.setattr(candidates, "note_disclosed", full)
            answer = (await network.search(wanted)).answers[ES]
            assert (answer.status, answer.references) == ("refused", ())
        assert (await network.search(wanted)).answers[ES].status == "candidates"  # the control

    at(federation, body)


def test_a_state_that_lets_the_time_of_a_recall_pass_is_given_nothing_more(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node takes the recall in, keeps what it has, and sends no receipt. Images of another search wait, too."""
    clock = Clock()

    async def body(network: AsgiNetwork) -> None:
        set_clock(network, clock)
        french_side, spanish_side = network.nodes[FR].follow_up, network.nodes[ES].follow_up
        assert french_side is not None
        assert spanish_side is not None

        async def answer() -> tuple[str, str | None]:
            told = (await network.search(request(federation.people.hit, (ES,)))).answers[ES]
            await network.settle()
            return told.status, told.reason

        with open_desk(federation.folder(FR), clock) as fr, open_desk(federation.folder(ES), clock) as es:
            french, spanish = staffed(fr), staffed(es)
            one, reference = await _candidate(network, french, federation.people.galleries[ES][7])
            other = await _searched_only(network, french, federation.people.galleries[ES][5])
            es.recall(spanish.dora, reference, "another person's photo")
            with monkeypatch.context() as patch:
                patch.setitem(inbox._HANDLERS, Recalled, lambda *_: None)
                await spanish_side.round()  # and FR acknowledges it
            clock.ahead = timedelta(hours=47)
            assert await answer() == ("candidates", None)
            clock.ahead = timedelta(hours=49)
            assert await answer() == ("refused", "state")
            await rounds(network)
            assert fr.candidates_for(french.rita, other) == []  # nor are images of another search shown
            usual = spanish_side.desk.office
            lenient = CaseworkConfig(refuse_without_receipts=False)
            spanish_side.desk.office = replace(usual, settings=lenient)
            assert await answer() == ("candidates", None)  # control: where the policy does not say so
            spanish_side.desk.office = usual
            assert (await answer())[0] == "refused"
            fr.delete(french.olga, one)
            await rounds(network)  # the receipt overtakes what waits for it
            assert await answer() == ("candidates", None)
            await asyncio.to_thread(_try_again, french_side)
            await rounds(network)
            assert len(fr.candidates_for(french.rita, other)) == 1

    at(federation, body)


async def _searched_only(network: AsgiNetwork, french: Staff, probe: Any) -> str:
    """A search that has found somebody, whose holder was not asked yet to show whom."""
    query = french.desk.open_query(french.olga, draft(probe, ES))
    french.desk.approve_launch(french.anton, query, french.sign("anton", "launch", query))
    follow_up = network.nodes[FR].follow_up
    assert follow_up is not None
    await follow_up._launch()
    await asyncio.gather(*follow_up._searches)
    await network.settle()
    return query


async def _candidate(network: AsgiNetwork, french: Staff, probe: Any) -> tuple[str, str]:
    """A candidate that its holder has shown, and its reference."""
    query = await _searched_only(network, french, probe)
    await rounds(network)
    (one,) = french.desk.candidates_for(french.rita, query)
    return one.id, reference_of(french.desk, one.id)


MENDED = pytest.mark.parametrize("mended", [True, False], ids=["mended", "control"])


@MENDED
def test_an_honest_state_is_not_shut_out_by_a_recall_that_did_not_reach_it(
    federation: Federation, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, mended: bool
) -> None:
    """Its holder does not know it for one round. The recall is sent again, and the operator is told meanwhile."""
    clock = Clock()
    if not mended:
        monkeypatch.setattr(follow_up, "_never_given_up", lambda _: False)
        monkeypatch.setattr(follow_up, "_FINAL", frozenset(ABORT_CODES))

    async def body(network: AsgiNetwork) -> None:
        set_clock(network, clock)
        holder = network.nodes[ES]
        assert holder.follow_up is not None
        with open_desk(federation.folder(FR), clock) as fr, open_desk(federation.folder(ES), clock) as es:
            french, spanish = staffed(fr), staffed(es)
            one, reference = await _candidate(network, french, federation.people.galleries[ES][8 if mended else 10])
            es.recall(spanish.dora, reference, "another person's photo")
            known = holder.peers
            holder.peers = {name: peer for name, peer in known.items() if name != FR}
            await holder.follow_up.round()
            holder.peers = known
            clock.ahead = timedelta(hours=49)
            told = (await network.search(request(federation.people.hit, (ES,)))).answers[ES]
            assert told.status == "candidates"
            with caplog.at_level("ERROR", "lineup.follow_up"):
                holder.follow_up._alarm()
            assert "recalls that their receiver has not taken in: 1" in caplog.text
            await asyncio.to_thread(_try_again, holder.follow_up)
            await rounds(network)
            assert (fr.outcome(one) == "deleted") is mended
            assert [view.answered for view in es.recalls(spanish.dora)][-1] is mended

    at(federation, body)


@MENDED
def test_a_receipt_of_a_node_whose_clock_is_ahead_comes_later(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, mended: bool
) -> None:
    if not mended:
        monkeypatch.setattr(follow_up, "_FINAL", frozenset(ABORT_CODES))
    clock, ahead = Clock(), Clock()
    ahead.ahead = timedelta(hours=2)

    async def body(network: AsgiNetwork) -> None:
        set_clock(network, clock)
        with open_desk(federation.folder(FR), clock) as fr, open_desk(federation.folder(ES), clock) as es:
            french, spanish = staffed(fr), staffed(es)
            one, reference = await _candidate(network, french, federation.people.galleries[ES][9 if mended else 11])
            requester = network.nodes[FR].follow_up
            assert requester is not None
            requester.desk.office = replace(requester.desk.office, clock=ahead)
            es.recall(spanish.dora, reference, "another person's photo")
            await rounds(network)
            assert fr.outcome(one) == "deleted"
            assert not [view.answered for view in es.recalls(spanish.dora)][-1]  # ES does not believe it yet
            clock.ahead = timedelta(hours=3)
            await asyncio.to_thread(_try_again, requester)
            await rounds(network)
            assert [view.answered for view in es.recalls(spanish.dora)][-1] is mended

    at(federation, body)


@MENDED
def test_candidates_that_are_shown_by_a_clock_ahead_are_taken_once_it_is_right(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, mended: bool
) -> None:
    """What is dated in the future enters nobody's evidence, and is asked for again."""
    clock, ahead = Clock(), Clock()
    ahead.ahead = timedelta(hours=2)
    if not mended:
        monkeypatch.setattr(inbox, "check_sender", lambda *_: None)

    async def body(network: AsgiNetwork) -> None:
        set_clock(network, clock)
        holder, requester = network.nodes[ES].follow_up, network.nodes[FR].follow_up
        assert holder is not None
        assert requester is not None
        with open_desk(federation.folder(FR), clock) as fr:
            french = staffed(fr)
            query = await _searched_only(network, french, federation.people.galleries[ES][20 + mended])
            right = holder.desk.office
            holder.desk.office = replace(right, clock=ahead)
            await rounds(network)
            assert bool(fr.candidates_for(french.rita, query)) is not mended
            holder.desk.office = right
            await asyncio.to_thread(_try_again, requester)
            await rounds(network)
            assert len(fr.candidates_for(french.rita, query)) == 1

    at(federation, body)


class _Answer:
    """How a receiver could get rid of a recall: it answers with something else, or disagrees."""

    def __init__(self, refuses: bool) -> None:
        self.refuses, self.times = refuses, 0

    def __call__(self, office: Any, session: Any, recall: Statement) -> Statement:
        self.times += 1
        if self.refuses:
            raise StatementRefused("no", "disagreement")
        content = Acknowledged(bytes(32))
        return Statement(1, recall.query, office.name, recall.sender, recall.time, content).signed(office.keyring)


@pytest.mark.parametrize("refuses", [True, False], ids=["disagreement", "another acknowledgement"])
@MENDED
def test_a_receiver_does_not_get_rid_of_a_recall_by_how_it_answers(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, mended: bool, refuses: bool
) -> None:
    clock, answer = Clock(), _Answer(refuses)
    person = 13 + 2 * mended + refuses
    if not mended:
        monkeypatch.setattr(follow_up, "_never_given_up", lambda _: False)

    async def body(network: AsgiNetwork) -> None:
        set_clock(network, clock)
        holder = network.nodes[ES].follow_up
        assert holder is not None
        with open_desk(federation.folder(FR), clock) as fr, open_desk(federation.folder(ES), clock) as es:
            french, spanish = staffed(fr), staffed(es)
            one, reference = await _candidate(network, french, federation.people.galleries[ES][person])
            es.recall(spanish.dora, reference, "another person's photo")
            with monkeypatch.context() as patch:
                patch.setattr(inbox, "acknowledge", answer)
                await holder.round()
            assert answer.times == 1
            assert [view.due for view in es.recalls(spanish.dora)][-1] is None
            await asyncio.to_thread(_try_again, holder)
            await rounds(network)
            assert ([view.due for view in es.recalls(spanish.dora)][-1] is not None) is mended
            assert (fr.outcome(one) == "deleted") is (mended or not refuses)  # it had deleted, and did not say so

    at(federation, body)


@MENDED
def test_what_is_never_shown_any_more_does_not_hold_up_a_recall(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, mended: bool
) -> None:
    """A holder finally refuses to show what it released, and recalls it: the receipt says that nothing is here."""
    clock = Clock()
    if not mended:
        monkeypatch.setattr(candidates, "give_up_waiting", lambda *_: None)

    def refuses(*_: object) -> None:
        raise StatementRefused("no", "disagreement")

    async def body(network: AsgiNetwork) -> None:
        set_clock(network, clock)
        with open_desk(federation.folder(FR), clock) as fr, open_desk(federation.folder(ES), clock) as es:
            french, spanish = staffed(fr), staffed(es)
            known = len(es.recalls(spanish.dora))
            query = await _searched_only(network, french, federation.people.galleries[ES][6 if mended else 12])
            with open_desk(federation.folder(FR), clock) as desk, desk.office.vault.reading() as session:
                held = cases.sealed_of(desk.office, cases.row_of(session, query))
            (reference,) = held.found[ES].references
            with monkeypatch.context() as patch:
                patch.setattr(candidates, "show", refuses)
                await rounds(network)
            es.recall(spanish.dora, reference, "another person's photo")
            await rounds(network)
            made = es.recalls(spanish.dora)[known:]
            assert [view.answered for view in made] == [mended]

    at(federation, body)


def test_a_search_that_a_dead_process_had_started_is_not_started_again(federation: Federation) -> None:
    clock = Clock()

    async def body(network: AsgiNetwork) -> None:
        set_clock(network, clock)
        with open_desk(federation.folder(FR), clock) as fr:
            staff = staffed(fr)
            query = fr.open_query(staff.olga, draft(federation.people.hit, ES))
            fr.approve_launch(staff.anton, query, staff.sign("anton", "launch", query))
            node = network.nodes[FR]
            assert node.follow_up is not None
            from nodes.casework import cases

            with node.follow_up.desk.office.vault.writing() as session:
                assert cases.take_approved(node.follow_up.desk.office, session) is not None
            await network.kill(FR)
            await network.start(FR)
            assert fr.query(staff.olga, query).state == "failed"

    at(federation, body)


def test_no_other_peer_uses_up_the_requesters_tries_or_enters_the_evidence(federation: Federation) -> None:
    """Router and other holders know a query's ID: they could make its holder refuse to show candidates."""

    async def body(network: AsgiNetwork) -> None:
        public = network.nodes[ES].identity.sealing.public
        query = bytes.fromhex((await network.search(request(federation.people.hit, (ES,)))).queries[0])
        await network.settle()
        for peer in (EU, DE):
            for slots in (1, 2, 3):
                document = seal_document(statement(network, peer, CandidatesWanted(slots), query=query), b"", public)
                assert await knock(network, peer, document) == (409, "state")
        good = seal_document(statement(network, FR, CandidatesWanted(9), query=query), b"", public)
        assert (await knock(network, FR, good))[0] == 200
        follow_up = network.nodes[ES].follow_up
        assert follow_up is not None
        with follow_up.desk.office.vault.reading() as session:
            rows = session.scalars(select(StatementRow).where(StatementRow.attempt == query))
            assert {row.peer for row in rows} == {FR}

    at(federation, body)


def test_control_without_the_look_at_the_sender_another_holder_enters_the_evidence(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(network: AsgiNetwork) -> None:
        public = network.nodes[ES].identity.sealing.public
        query = bytes.fromhex((await network.search(request(federation.people.hit, (ES,)))).queries[0])
        await network.settle()
        document = seal_document(statement(network, DE, CandidatesWanted(1), query=query), b"", public)
        with monkeypatch.context() as patch:
            patch.setattr(inbox, "check_sender", lambda *_: None)
            assert (await knock(network, DE, document))[0] == 200

    at(federation, body)
