"""Files of preparations that somebody else wrote, cut off or copied."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from nodes.cli.prepared import (
    PreparationFileError,
    _tombstone_start,
    check_no_copies,
    open_preparation,
    write_preparation,
)
from protocol.local import LocalPreparation
from tests.kit.parties import HOLDER
from tests.kit.scene import scene, small_trio

pytestmark = pytest.mark.ring


def forged_file(folder: Path, change: Callable[[LocalPreparation], None]) -> Path:
    """A file of a sound preparation that was changed."""
    made = small_trio().prepare().made
    assert made is not None
    change(made)
    write_preparation(folder / "made", made, scene()[0])
    return folder / "made"


def another_seat(made: LocalPreparation) -> None:
    made.requester.rings[HOLDER].seat, made.requester.rings[HOLDER].known = 2, None


def negative_attempt(made: LocalPreparation) -> None:
    ring = made.router.rings[HOLDER]
    ring.versions = tuple(msgspec.structs.replace(version, attempt=-1) for version in ring.versions)


def no_rings(made: LocalPreparation) -> None:
    made.holders[HOLDER].rings.clear()


@pytest.mark.parametrize("change", [another_seat, negative_attempt, no_rings])
def test_a_forged_file_is_refused_where_it_is_read(change: Callable[[LocalPreparation], None], tmp_path: Path) -> None:
    with pytest.raises(PreparationFileError):
        open_preparation(forged_file(tmp_path, change))


def test_a_tombstone_that_was_cut_off_or_says_nonsense_is_still_one(tmp_path: Path) -> None:
    path = forged_file(tmp_path, lambda _: None)
    for rest in (b"", b"\0", b"\x7f\xf8" + bytes(6), b"\x7f\xf0" + bytes(6)):
        path.write_bytes(_tombstone_start() + rest)
        with pytest.raises(PreparationFileError, match="was used"):
            open_preparation(path)


def test_a_copy_of_a_preparation_in_the_same_command_is_refused(tmp_path: Path) -> None:
    path = forged_file(tmp_path, lambda _: None)
    copy = tmp_path / "copy"
    shutil.copy(path, copy)
    with closing(open_preparation(path)) as first, closing(open_preparation(copy)) as second:
        check_no_copies([first])
        with pytest.raises(PreparationFileError, match="is a copy of"):
            check_no_copies([first, second])
