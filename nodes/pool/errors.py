"""What a pool refuses.

`UnknownPreparation` (a protocol.errors.QueryRefused): what a search names does not wait here.
"""

from __future__ import annotations

from protocol.errors import QueryRefused


class UnknownPreparation(QueryRefused):
    """A preparation that is not here, or no longer: used, expired, lost with a restart, made for somebody else."""

    def __init__(self, preparation_id: bytes, why: str) -> None:
        super().__init__("unprepared", f"preparation {preparation_id.hex()[:16]} {why}")
        self.preparation_id = preparation_id
