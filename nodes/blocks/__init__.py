"""A gallery of int8 rows in versioned block files, sealed at rest and opened into memory.

::

    files = BlockFiles.create(folder, cipher, dim=512, model=digest)      on disk: append, correct, forget, compact
    gallery = ResidentGallery(files)                                      in memory: one array, read by many
    with gallery.snapshot() as version:                                   one version: rows, root, live rows
        version.rows, version.version.root, version.live()
    VersionReader(files, number).recompute()                              an earlier version, for an audit
"""

from nodes.blocks.enrolment import NpyEnrolment, enrol_npy
from nodes.blocks.errors import (
    BlocksCorrupted,
    BlocksError,
    BlocksFull,
    BlocksLocked,
    BlocksRefusal,
    BlocksUnavailable,
    NoRoom,
    RunConflict,
    UnknownRow,
    UnknownVersion,
)
from nodes.blocks.gallery import BLOCK_ROWS, BlockFiles
from nodes.blocks.held import HeldGallery, Snapshot
from nodes.blocks.history import Recomputed, VersionReader
from nodes.blocks.resident import ResidentGallery

__all__ = [
    "BLOCK_ROWS",
    "BlockFiles",
    "BlocksCorrupted",
    "BlocksError",
    "BlocksFull",
    "BlocksLocked",
    "BlocksRefusal",
    "BlocksUnavailable",
    "HeldGallery",
    "NoRoom",
    "NpyEnrolment",
    "Recomputed",
    "ResidentGallery",
    "RunConflict",
    "Snapshot",
    "UnknownRow",
    "UnknownVersion",
    "VersionReader",
    "enrol_npy",
]
