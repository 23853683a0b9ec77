"""Keyrings for parties without certificates."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from pets.errors import CryptoError


@dataclass
class Hmacs:
    """A keyring whose signatures everybody can check, of a name that may lie."""

    name: str
    lies: bool = False

    def sign(self, message: bytes) -> bytes:
        return hmac.digest(self.name.encode(), message + b"!" * self.lies, "sha256")

    def check(self, peer: str, message: bytes, signature: bytes) -> None:
        if not hmac.compare_digest(hmac.digest(peer.encode(), message, "sha256"), signature):
            raise CryptoError(f"not a signature of {peer}")
