"""Whose keys count: public identities as `lineup node init` publishes them, read without the node's own code.

Each NAME.json is signed with the key inside. That the key is the right state's is not for a file to say: the supervisor
compares fingerprints over another channel.

`TrustRefused` (a pets.errors.InputError): an identity that does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from nodes.verify.format import Role
from pets.errors import MALFORMED, CryptoError, InputError
from pets.prf import encode_labels
from pets.signatures import VerifyKey
from protocol.messages import Name

_CONTEXT = "node-identity"
_LIMIT = 65536


class TrustRefused(InputError):
    """A public identity that does not hold."""


class _PeerFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    name: Name
    role: Role
    address: Annotated[str, msgspec.Meta(max_length=256)]
    verify_key: bytes
    sealing_key: bytes
    fingerprint: str
    signature: bytes


@dataclass(frozen=True)
class Party:
    """One trusted party."""

    name: str
    role: Role
    verify_key: VerifyKey


Trust = Mapping[str, Party]


def load_trust(path: Path) -> dict[str, Party]:
    """A file or a folder of public identities, by name. Raises `TrustRefused`."""
    files = sorted(path.glob("[!.]*.json")) if path.is_dir() else [path]
    if not files:
        raise TrustRefused(f"{path} holds no public identities (NAME.json)")
    trust: dict[str, Party] = {}
    for file in files:
        party = _read(file)
        if party.name in trust:
            raise TrustRefused(f"{file}: {party.name} is listed twice")
        if any(party.verify_key == other.verify_key for other in trust.values()):
            raise TrustRefused(f"{file}: {party.name} has the same key as another party")
        trust[party.name] = party
    return trust


def _read(path: Path) -> Party:
    try:
        with path.open("rb") as stream:
            content = stream.read(_LIMIT + 1)
        if len(content) > _LIMIT:
            raise TrustRefused(f"{path} has more than {_LIMIT} bytes")
        record = msgspec.json.decode(content, type=_PeerFile)
        key = VerifyKey.from_bytes(record.verify_key)
        statement = encode_labels(1, record.name, record.role, record.address, record.verify_key, record.sealing_key)
        key.verify(record.signature, statement, _CONTEXT)
    except (OSError, *MALFORMED, CryptoError) as error:
        raise TrustRefused(f"{path}: {error}") from None
    if record.fingerprint != key.fingerprint.hex():
        raise TrustRefused(f"{path} states fingerprint {record.fingerprint[:64]}, its key has {key.fingerprint.hex()}")
    return Party(record.name, record.role, key)
