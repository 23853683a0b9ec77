"""What a node writes down: whole or not at all, log before evidence, and the Article 40 entry whatever else fails."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from nodes.config.storage_key import storage_key
from nodes.evidence import under_way
from nodes.evidence.archive import Archive, article_forty
from nodes.evidence.recorder import Recorder, read_records
from nodes.evidence.witnesses import Witnesses
from nodes.logs.checkpoints import Checkpoint
from nodes.logs.entries import ArticleForty, LogHeader
from nodes.private_files import append_private, replace_private
from nodes.store import StorageKey
from nodes.verify.format import Witnessed
from protocol.messages import Gates, Message
from protocol.party import Context
from protocol.preparing import PreparingRouter
from protocol.roles import Parties
from protocol.searching import SearchingRouter
from protocol.session import Event, State
from tests.kit.evidence import EU, World, new_world

QUERY = bytes(range(16))


class Log:
    """A transcript log that only looks: at the evidence, whenever it is written to."""

    def __init__(self, evidence: Path) -> None:
        self.evidence = evidence
        self.seen: list[int] = []

    def append(self, entries: list[Any], now: int) -> None:
        self.seen.append(len(read_records(self.evidence)) if self.evidence.exists() else 0)


def recorded(folder: Path) -> tuple[Recorder, Any, Log]:
    """A recorder of one conversation; call the second with a number to record an event."""
    log = Log(folder / QUERY.hex())
    recorder = Recorder(folder, log, nullcontext())  # type: ignore[arg-type]
    recorder.begin(QUERY)
    message: Message = Gates(memoryview(b""))

    def say(number: int) -> None:
        recorder.record(QUERY, Event("ES", "sent", "ES", number, message, bytes(32), bytes(32), 10))  # type: ignore[arg-type]

    return recorder, say, log


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_half_way_leaves_no_half_record(tmp_path: Path) -> None:
    recorder, say, _ = recorded(tmp_path)
    path = tmp_path / QUERY.hex()
    for number in range(3):
        say(number)
    recorder.flush(QUERY)
    before = path.read_bytes()
    for number in range(3, 6):
        say(number)
    with no_file_longer_than(len(before) + 20), pytest.raises(OSError, match="File too large"):
        recorder.flush(QUERY)
    assert path.read_bytes() == before
    say(6)
    recorder.end(QUERY)
    recorder.close()
    assert [record.sequence for record in read_records(path)] == [0, 1, 2, 6]


def test_the_log_is_written_before_the_evidence(tmp_path: Path) -> None:
    """A node that dies in between can show less than it logged. The other way round it could show nothing at all:
    a record that is in no log is not exported, and with it nothing of the query."""
    recorder, say, log = recorded(tmp_path)
    for number in range(2):
        say(number)
        recorder.flush(QUERY)
    recorder.close()
    assert log.seen == [0, 1]
    assert stat.S_IMODE((tmp_path / QUERY.hex()).stat().st_mode) == 0o600


def router(state: State = State.FINISHED) -> SearchingRouter:
    machine = SearchingRouter(Context("EU", QUERY, Parties("FR", "EU", ("ES",))), SimpleNamespace())  # type: ignore
    machine.sessions["ES"].state = state
    return machine


def test_a_clock_that_is_set_back_during_a_query_costs_no_entry() -> None:
    assert article_forty(router(), 2000, 1000) == ArticleForty("FR", 2000, 2000, ("ES",), ("ES",))
    assert article_forty(router(), 2000, 3000) == ArticleForty("FR", 2000, 3000, ("ES",), ("ES",))
    assert article_forty(router(State.ABORTED), 2000, 1000) == ArticleForty("FR", 2000, None, ("ES",), ())


def test_a_query_of_which_records_are_missing_is_in_the_article_40_log_all_the_same(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world(tmp_path_factory.mktemp("archive"))
    archive = Archive(world.identities[EU], world.root / EU)
    machine = router()
    archive.begin(machine.query)

    def fails(query: bytes) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(archive._recorder, "end", fails)
    with pytest.raises(OSError, match="no space left"):
        archive.end(machine)
    assert archive.article_forty.size == archive.article_forty.last_checkpoint.size == 1
    assert not archive._started
    archive.close()


def test_a_query_during_which_the_node_was_killed_is_in_the_article_40_log_from_the_next_start(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    world = new_world(tmp_path_factory.mktemp("archive"))

    def opened() -> Archive:
        return Archive(world.identities[EU], world.root / EU)

    def entries(archive: Archive) -> list[Any]:
        return [archive.article_forty.read(index) for index in range(archive.article_forty.size)]

    archive, parties = opened(), Parties("FR", "EU", ("ES", "DE"))
    archive.begin(QUERY, parties)
    archive.begin(bytes(16))  # control: a preparation, or a search that was not noted, leaves nothing
    assert archive.article_forty.size == 0
    started = archive._started[QUERY]
    archive.close()  # and with it what it knew of queries under way
    archive = opened()
    assert entries(archive) == [ArticleForty("FR", started, None, ("DE", "ES"), ())]
    assert archive.article_forty.last_checkpoint.size == 1
    archive.close()
    archive = opened()
    assert archive.article_forty.size == 1  # once
    machine = router()
    archive.begin(machine.query, machine.parties)
    archive.end(machine)
    archive.close()
    archive = opened()
    assert archive.article_forty.size == 2  # control: one that ended is not entered again
    archive.close()


def test_a_node_killed_between_entry_and_file_enters_it_once(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world(tmp_path_factory.mktemp("archive"))
    archive = Archive(world.identities[EU], world.root / EU)
    machine = router()
    with monkeypatch.context() as killed:
        killed.setattr(under_way, "end", lambda folder, query: None)
        archive.begin(machine.query, machine.parties)
        archive.end(machine)
    archive.close()
    assert len(list((world.root / EU / under_way.FOLDER).iterdir())) == 1
    (world.root / EU / under_way.FOLDER / f".{bytes(16).hex()}").write_bytes(b"half")
    archive = Archive(world.identities[EU], world.root / EU)
    assert archive.article_forty.size == 1
    assert list((world.root / EU / under_way.FOLDER).iterdir()) == []
    archive.close()


def plant(world: World, what: str) -> Path:
    """Put something where notes of searches lie, as somebody does who can write to the disk."""
    key, conversation = storage_key(world.identities[EU].config), QUERY
    waiting, answered = ArticleForty("FR", 5, None, ("ES",), ()), ArticleForty("FR", 5, 6, ("ES",), ("ES",))
    path = world.root / EU / under_way.FOLDER / conversation.hex()
    under_way.begin(world.root / EU, key, conversation, answered if what == "answered" else waiting)
    if what == "moved":
        path = path.replace(path.with_name(bytes(16).hex()))
    elif what == "of another key":
        under_way.begin(world.root / EU, StorageKey(b"k" * 32), conversation, waiting)
    elif what == "folder":
        path.unlink()
        path.mkdir()
    elif what not in ("sealed", "answered"):
        junk = {"empty": b"", "cut": b"\x95", "junk": b"junk" * 20, "plain": msgspec.msgpack.encode(waiting)}
        path.write_bytes(junk[what])
    return path


@pytest.mark.parametrize(
    "what", ["empty", "cut", "junk", "plain", "of another key", "moved", "answered", "folder", "sealed"]
)
def test_who_writes_to_the_disk_puts_nothing_into_the_article_40_log(
    tmp_path_factory: pytest.TempPathFactory, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: what the node sealed there itself is entered."""
    monkeypatch.setattr("nodes.evidence.archive.retention_end", lambda _: 2**62)
    world = new_world(tmp_path_factory.mktemp("archive"))
    path = plant(world, what)
    archive = Archive(world.identities[EU], world.root / EU)
    assert archive.article_forty.size == (what == "sealed")
    archive.close()
    assert path.exists() == (what != "sealed"), "what is no note stays for whoever looks into it"


@pytest.mark.parametrize("kept", ["in the log", "past its time", "control"])
def test_a_copied_note_that_comes_back_is_not_entered_again(
    tmp_path_factory: pytest.TempPathFactory, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodes.evidence.archive.LAST_ENTRIES", 2)
    world = new_world(tmp_path_factory.mktemp("archive"))
    archive = Archive(world.identities[EU], world.root / EU)
    archive.begin(QUERY, Parties("FR", "EU", ("ES",)))
    path = world.root / EU / under_way.FOLDER / QUERY.hex()
    note, started = path.read_bytes(), archive._started[QUERY]
    archive.close()
    if kept == "in the log":
        Archive(world.identities[EU], world.root / EU).close()
    elif kept == "past its time":
        monkeypatch.setattr("nodes.evidence.archive.retention_end", lambda _: started)
    archive = Archive(world.identities[EU], world.root / EU)
    for later in range(1, 6):
        archive.article_forty.append([ArticleForty("FR", started + later, None, ("DE",), ())], started + 10)
    archive.article_forty.checkpoint(started + 10)
    archive.close()
    path.write_bytes(note)
    if kept == "control":  # of a search that the log does not know
        under_way.begin(
            world.root / EU, storage_key(world.identities[EU].config), QUERY,
            ArticleForty("FR", started + 9, None, ("ES",), ()),
        )  # fmt: skip
    before = 5 + (kept != "past its time")
    archive = Archive(world.identities[EU], world.root / EU)
    assert archive.article_forty.size == before + (kept == "control")
    archive.close()
    assert not path.exists()


def test_a_preparation_is_no_query_and_has_no_article_40_entry(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nobody is searched for, and there is no warrant yet."""
    world = new_world(tmp_path_factory.mktemp("archive"))
    archive = Archive(world.identities[EU], world.root / EU)
    machine = PreparingRouter(Context("EU", QUERY, Parties("FR", "EU", ("ES",))))
    archive.begin(machine.query)
    archive.end(machine)
    assert archive.article_forty.size == 0
    archive.close()


def test_what_was_witnessed_is_for_its_owner_only(tmp_path: Path) -> None:
    header = LogHeader(1, "transcript", "ES", bytes(32))
    Witnesses(tmp_path / "w").keep(Witnessed(header, Checkpoint(header.log, 0, bytes(32), 0, b"s")))
    (file,) = (tmp_path / "w").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("write", [replace_private, append_private])
def test_the_name_of_a_private_file_is_on_disk_too_before_anything_goes_on(
    write: Callable[[Path, bytes], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut takes what was sealed for an audit, and u has left."""
    place, flushed = tmp_path / "name", []
    flush = os.fsync

    def watched(handle: int) -> None:
        flushed.append((Path(os.readlink(f"/proc/self/fd/{handle}")), place.exists()))
        flush(handle)

    monkeypatch.setattr(os, "fsync", watched)
    write(place, b"content")
    assert (tmp_path, True) in flushed
    assert place.read_bytes() == b"content"
