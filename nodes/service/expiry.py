"""What a node deletes when its time is over (R 33(3), 40(3), 50(3)): at start, then daily, or by `lineup node expire`.

- Subjects whose retention date is past.
- Log entries of both logs at three years, by destroying their keys, unless the supervisor holds them.
- Evidence of searches and preparations with their log entries, and which preparation a conversation made: files first,
  so that an interruption leaves nothing that is never met again. Whoever holds a search and wants its preparation too
  holds the entries of both; what says that they belong together stays with those of the preparation.
- What was sealed for audits after `retention.sealed_days`; both kinds of files stay while a query's entry is held.
- Counts of releases past `policy.release_window_days`.
- Claims on queries answered, three years after: as long as there is evidence that another query could be added to.

A file's age is the time it was last written. Deleting a file does not overwrite it; sealed ones are encrypted.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from nodes.config.schema import NodeConfig
from nodes.evidence import followed_up, links
from nodes.evidence.archive import Archive
from nodes.logs.entries import TranscriptEntry, retention_end
from nodes.logs.log import TamperEvidentLog
from nodes.store.store import GalleryStore

_CLAIMS = timedelta(days=3 * 366)
_SLACK_SECONDS = 24 * 3600  # a preparation is made for the version of when it began


class Expired(msgspec.Struct, frozen=True):
    """How much was deleted."""

    subjects: int
    log_entries: int
    evidence_files: int
    sealed_files: int


def delete_expired(
    store: GalleryStore,
    archive: Archive,
    config: NodeConfig,
    now: datetime,
    writing: AbstractContextManager[Any] | None = None,
) -> Expired:
    """Delete what is past its time. `now`: UTC. `writing`: the lock under which others write the logs.

    Raises `StoreError`, OSError, and what a damaged log raises.
    """
    writing = writing or nullcontext()
    moment = int(now.timestamp() * 1000)
    subjects = len(store.delete_expired_subjects(now))
    store.purge_claims(now - _CLAIMS)
    store.purge_releases(now.date() - timedelta(config.policy.release_window_days - 1))
    log = archive.transcript
    with writing:
        due, kept = log.due(moment), log.held()
    held = _queries(log, kept, writing)
    over = _queries(log, due, writing) - held

    def is_old(written: int) -> bool:
        return retention_end(written) <= moment

    def is_sealed_long_enough(written: int) -> bool:
        return written + config.retention.sealed_days * 24 * 3600 * 1000 <= moment

    evidence = [path for path, at in _files(archive.folder / "evidence", held) if path.name in over or is_old(at)]
    sealed = [path for path, at in _files(archive.folder / "sealed", held) if is_sealed_long_enough(at)]
    told = [path for path, at in _files(archive.folder / followed_up.FOLDER, held) if is_old(at)]
    made = [
        path
        for path, at in _files(archive.folder / links.FOLDER, set())
        if is_old(at) and path.read_bytes().hex() not in held
    ]
    for path in (*evidence, *sealed, *told, *made):
        path.unlink()
    oldest = min((at // 1000 for _, at in _files(archive.folder / "sealed", set())), default=int(now.timestamp()))
    store.retire_versions(oldest - config.preparations.max_age_hours * 3600 - _SLACK_SECONDS)
    with writing:
        erased = len(log.erase_due(moment)) + len(archive.article_forty.erase_due(moment))
    return Expired(subjects, erased, len(evidence) + len(told), len(sealed))


def _queries(log: TamperEvidentLog, indices: Iterable[int], writing: AbstractContextManager[Any]) -> set[str]:
    """The queries of these entries, hexadecimal, as their files are called."""
    found = set()
    for index in indices:
        with writing:  # each time, so that queries under way do not wait for all of it
            entry = log.read(index)
        assert isinstance(entry, TranscriptEntry)
        found.add(entry.query.hex())
    return found


def _files(folder: Path, held: set[str]) -> list[tuple[Path, int]]:
    """Files of queries that are not held, and when they were last written, milliseconds."""
    paths = folder.glob("[0-9a-f]*") if folder.is_dir() else ()
    return [(path, path.stat().st_mtime_ns // 10**6) for path in paths if path.name not in held]
