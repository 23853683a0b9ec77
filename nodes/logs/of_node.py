"""The logs of a node: the transcript log everywhere, and the Article 40 log at the router and at each state.

A supervisor's orders (holds) count if its verify key lies in the node's folder as `supervisor.pem`.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import closing
from pathlib import Path

from nodes.identity.identity import NodeIdentity
from nodes.logs.checkpoints import Verifier
from nodes.logs.entries import RECORD_LIMIT, Kind
from nodes.logs.frames import FrameFile
from nodes.logs.holds import SUPERVISOR_CONTEXT
from nodes.logs.log import TamperEvidentLog
from nodes.logs.reader import LogKeys
from nodes.private_files import sync_folder
from pets.signatures import SignatureError, VerifyKey

CONTEXT = "log"
SUPERVISOR_FILE = "supervisor.pem"


def open_log(identity: NodeIdentity, folder: Path, kind: Kind) -> TamperEvidentLog:
    """Open and verify a log, or create it. Raises `LogUnusable`, `LogTampered` and what else opening finds."""
    place = identity.config.paths.logs / kind
    keys = log_keys(identity, folder)
    now = int(time.time() * 1000)
    if not place.exists():
        _create(place, kind, identity.config.name, keys, now)
    return TamperEvidentLog.open(place, keys, now)


def _create(place: Path, kind: Kind, owner: str, keys: LogKeys, now: int) -> None:
    """Whole or not at all: half a log would keep the node from ever starting."""
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=place.parent) as folder:
        fresh = Path(folder) / kind
        TamperEvidentLog.create(fresh, kind, owner, keys, now).close()
        fresh.rename(place)
        sync_folder(place.parent)


def has_entries(logs: Path) -> bool:
    """Whether any log of a node holds an entry: it has run. Opens none of them, for it may run now."""
    return any(_more_than_a_header(path) for path in logs.glob("*/entries"))


def _more_than_a_header(entries: Path) -> bool:
    with closing(FrameFile(entries, RECORD_LIMIT)) as file:
        next(file.scan(), None)
        return file.torn_bytes > 0  # an entry, or what somebody made of one


def log_keys(identity: NodeIdentity, folder: Path) -> LogKeys:
    """Whose signatures count in a node's logs."""
    signing = identity.signing

    def verify(signature: bytes, message: bytes) -> None:
        signing.verify_key.verify(signature, message, CONTEXT)

    return LogKeys(lambda message: signing.sign(message, CONTEXT), verify, _supervisor(folder / SUPERVISOR_FILE))


def _supervisor(path: Path) -> Verifier:
    if not path.exists():

        def refuse(signature: bytes, message: bytes) -> None:
            raise SignatureError(f"no supervisor's key: {path} does not exist")

        return refuse
    key = VerifyKey.from_pem(path.read_text("ascii", "replace"))
    return lambda signature, message: key.verify(signature, message, SUPERVISOR_CONTEXT)
