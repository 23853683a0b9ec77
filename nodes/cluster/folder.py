"""A folder for the socket of a node's agent, which is found and deleted later if the node was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

from nodes.cluster.errors import ClusterError

PREFIX = "lineup-cluster-"
NEW_SECONDS = 60.0  # so long a folder may be without its lock


class OwnedFolder:
    """`path`: a new folder, mode 0700, locked as long as this process lives or until `close`.

    Folders of this user that nobody locks any more are deleted first. Raises `ClusterError` where there can be none.
    """

    def __init__(self) -> None:
        place = tempfile.gettempdir()
        try:
            _delete_left_over(Path(place))
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
            self._handle = _locked(self.path)
        except OSError as error:
            raise ClusterError(
                f"{place} takes no folder with a lock for the socket of the cluster's agent: {error.strerror}; TMPDIR "
                "names another place"
            ) from error

    def close(self) -> None:
        """Delete it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._handle)


def _locked(folder: Path) -> int:
    """The handle that holds the lock of a new folder, which is deleted if there is none."""
    handle = -1
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except BaseException:
        if handle >= 0:
            os.close(handle)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return handle


def _delete_left_over(place: Path) -> None:
    for folder in place.glob(f"{PREFIX}*"):
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
        except OSError:
            pass  # its node lives, or nobody can tell
        finally:
            os.close(handle)
