"""The manifest: which files make up the gallery, its versions, and which rows are dead. Sealed, replaced in one step.

Every row has a *number* for good, given in order of enrolment. The rows that are held lie in *slots*, in order of
their numbers; a compaction leaves out slots whose rows are gone, and begins a new *epoch*.

A *version* is the number of rows (and the epoch) after a change, and the root over them. Nothing is copied for it:
a row never changes. What can happen to a row is that it is

- replaced (a correction) from a version on: queries of earlier versions still find it, later ones do not;
- forgotten: no query finds it, whatever its version; its bytes and its salt are gone, its leaf stays.

A *line* is a history in which a number is given once. A gallery that goes on from an earlier state (a restore) begins a
new one: the numbers that were given after that state may be given again, and are then other rows.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nodes.blocks.errors import BlocksCorrupted, UnknownVersion
from nodes.blocks.files import MANIFEST, replace_file
from nodes.blocks.sealing import seal, unseal

FORMAT = 1
_KIND = "manifest"


class Block(msgspec.Struct, array_like=True, frozen=True):
    """A file of rows. `generation` counts how often it was rewritten. `hash`: `pets.gallery_commitment.block_hash`.

    `mark`: random, of this file alone; else a file of another history, which counts alike, would open in its place.
    """

    number: int
    generation: int
    rows: int
    hash: bytes
    mark: bytes

    @property
    def name(self) -> str:
        """The file's name."""
        return f"block-{self.number:08d}.{self.generation}"


class Version(msgspec.Struct, array_like=True, frozen=True):
    """The gallery after a change. `rows`: slots. `next_row`: no row with this number or above. `time`: s since 1970."""

    number: int
    epoch: int
    rows: int
    next_row: int
    root: bytes
    time: int


class Dead(msgspec.Struct, array_like=True, frozen=True):
    """A row that was replaced or forgotten. `erased`: its bytes are gone. `successor`: the row that replaces it."""

    version: int
    successor: int | None
    forgotten: bool
    erased: bool


class Dropped(msgspec.Struct, array_like=True, frozen=True):
    """The rows that a compaction left out: those that were not in `epoch` any more. `leaves`: whether still kept."""

    epoch: int
    generation: int
    rows: int
    leaves: bool

    @property
    def name(self) -> str:
        """The file's name."""
        return f"dropped-{self.epoch:06d}.{self.generation}"


class Run(msgspec.Struct, array_like=True, frozen=True):
    """An enrolment from a file. `source`: what the file is known by. `rows`: in all. `done`: enrolled so far.

    `first`: number of the first of them. `digest`: SHA-256 of all that were enrolled.
    """

    source: bytes
    rows: int
    done: int = 0
    first: int = 0
    digest: bytes = b""


class Line(msgspec.Struct, array_like=True, frozen=True):
    """A history. `name`: 16 random bytes. `first`: numbers from here on that earlier lines gave are not its rows."""

    name: bytes
    first: int


class Manifest(msgspec.Struct):
    """Everything about the gallery but its rows. `versions`: those kept, oldest first; the last is the present one."""

    gallery: bytes
    dim: int
    block_rows: int
    model: bytes
    blocks: list[Block]
    versions: list[Version]
    dead: dict[int, Dead] = {}
    dropped: list[Dropped] = []
    runs: list[Run] = []
    generation: int = 0
    next_block: int = 0
    next_row: int = 0
    lines: list[Line] = []
    format: int = FORMAT

    @property
    def current(self) -> Version:
        """The present version."""
        return self.versions[-1]

    def version(self, number: int) -> Version:
        """A version by number. Raises `UnknownVersion`."""
        for version in reversed(self.versions):
            if version.number == number:
                return version
        raise UnknownVersion(
            f"version {number} is not kept; kept: {self.versions[0].number} to {self.current.number} of this gallery"
        )

    def run(self, source: bytes) -> Run | None:
        """The enrolment of a source."""
        return next((run for run in self.runs if run.source == source), None)

    def end_of(self, name: bytes) -> int | None:
        """Rows below this number are those that a line gave; None for a line that is no part of this history."""
        for place, line in enumerate(self.lines):
            if line.name == name:
                return min([self.next_row, *(later.first for later in self.lines[place + 1 :])])
        return None

    def shared(self, other: Manifest) -> int:
        """Numbers below this one are the same rows in both."""
        same = [line.name for line, theirs in zip(self.lines, other.lines, strict=False) if line == theirs]
        ends = (self.end_of(same[-1]), other.end_of(same[-1])) if same else ()
        return min((end for end in ends if end is not None), default=0)

    def names(self) -> frozenset[str]:
        """The files that make up the gallery, besides the manifest."""
        return frozenset([block.name for block in self.blocks] + [what.name for what in self.dropped])


def read_manifest(folder: Path, cipher: AESGCM) -> Manifest:
    """Read and check the manifest. Raises `BlocksCorrupted`; OSError if it cannot be read."""
    path = folder / MANIFEST
    content = unseal(cipher, path.read_bytes(), path, _KIND)
    try:
        manifest = msgspec.msgpack.decode(content, type=Manifest)
    except msgspec.DecodeError as error:
        raise BlocksCorrupted(f"{path} cannot be read by this version of the software: {error}") from None
    if manifest.format != FORMAT:
        raise BlocksCorrupted(f"{path} has format {manifest.format}, this software reads format {FORMAT}")
    return manifest


def write_manifest(folder: Path, cipher: AESGCM, manifest: Manifest) -> None:
    """Put a manifest in the place of the one before: the moment at which a change has happened."""
    pieces = seal(cipher, msgspec.msgpack.encode(manifest), _KIND)
    replace_file(folder / MANIFEST, b"".join(pieces))
