"""A folder for the socket of a node's agent, which is found and deleted later if the node was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

PREFIX = "lineup-cluster-"
NEW_SECONDS = 60.0  # so long a folder may be without its lock


class OwnedFolder:
    """`path`: a new folder, mode 0700, locked as long as this process lives or until `close`.

    Folders of this user that nobody locks any more are deleted first.
    """

    def __init__(self) -> None:
        _delete_left_over()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self._handle, fcntl.LOCK_EX)

    def close(self) -> None:
        """Delete it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._handle)


def _delete_left_over() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            found = folder.lstat()
            if found.st_uid != os.getuid() or time.time() - found.st_ctime < NEW_SECONDS:
                continue
            handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # deleted meanwhile, or no folder
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass  # its node lives
        finally:
            os.close(handle)
