"""Places for queries under way at a node."""

from __future__ import annotations

from collections.abc import Collection


def has_room(asker: str, askers: Collection[str], places: int) -> bool:
    """Whether a query of `asker` may begin beside those under way, each of which is in `askers` with who asked.

    The last quarter of the places is kept for those that have none: nobody shuts the others out by asking much.
    """
    kept = places // 4 if asker in askers else 0
    return len(askers) < places - kept
