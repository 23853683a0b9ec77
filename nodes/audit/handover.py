"""Files that a supervisor carries from the audit of a requester to that of a holder.

`Sent`: the encrypted mask and u, recomputed. The holder was sent both, so it learns nothing from them; it does not keep
them, for the mask is 16.8 MB a query at d = 512. `CarriedProbe`: the probe itself, for the one rule that needs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from nodes.audit.errors import AuditRefused
from nodes.private_files import replace_private
from pets.errors import MALFORMED
from protocol.messages import Digest
from protocol.shown import kind_only

SENT_LIMIT = 1 << 27  # twice the most that a query can have
PROBE_LIMIT = 1 << 16


class Sent(msgspec.Struct, frozen=True, tag="sent", forbid_unknown_fields=True):
    """`mask`: first components, uint32 (d, 2, n). `difference`: u as in `protocol.messages.Difference`."""

    mask: bytes
    difference: bytes

    __repr__ = kind_only


class CarriedProbe(msgspec.Struct, frozen=True, tag="probe", forbid_unknown_fields=True):
    """`template`: int8 (d,). `query_id`: of the one search that it was the probe of."""

    template: Annotated[bytes, msgspec.Meta(max_length=1024)]
    query_id: Digest

    __repr__ = kind_only


C = TypeVar("C", Sent, CarriedProbe)
_NAMES = {Sent: "what a requester sent", CarriedProbe: "the probe of an audit"}


def write(path: Path, content: Sent | CarriedProbe) -> None:
    """A file that only its owner may read, in place of what lay there. Raises `AuditRefused` if that cannot be."""
    try:
        replace_private(path, msgspec.msgpack.encode(content))
    except OSError as error:
        raise AuditRefused(f"{path} cannot be written: {error.strerror}") from None


def read(path: Path, kind: type[C]) -> C:
    """The inverse. Raises `AuditRefused` for anything else, before more is read than a query can have."""
    limit = SENT_LIMIT if kind is Sent else PROBE_LIMIT
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
        if len(data) > limit:
            raise AuditRefused(f"{path} does not hold {_NAMES[kind]}: more than {limit} bytes")
        return msgspec.msgpack.decode(data, type=kind)
    except OSError as error:
        raise AuditRefused(f"{path} cannot be read: {error.strerror}") from None
    except MALFORMED as error:
        raise AuditRefused(f"{path} does not hold {_NAMES[kind]}: {error}") from None
