"""Who takes part: three roles, and the names of those who take them in one preparation or query."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from pets.errors import ParameterError


class Role(str, Enum):
    """What a party does in a query."""

    REQUESTER = "requester"
    HOLDER = "holder"
    ROUTER = "router"

    __str__ = str.__str__  # its value, on every Python

    @property
    def seat(self) -> Seat:
        """Where it sits in a ring."""
        return Seat[self.name]


class Seat(IntEnum):
    """A party's number in the ring of one holder: everything is sent to the one before (`protocol.compute`)."""

    HOLDER = 0
    REQUESTER = 1
    ROUTER = 2


HOLDERS_LIMIT = 64


@dataclass(frozen=True)
class Parties:
    """Names. `holders`: all that are asked, in the order of the announcement.

    Raises `ParameterError` for one party in two roles (two seats of a ring see every score), no holder, or too many.
    """

    requester: str
    router: str
    holders: tuple[str, ...]

    def __post_init__(self) -> None:
        names = (self.requester, self.router, *self.holders)
        if len(set(names)) != len(names):
            raise ParameterError(f"one party is named in two roles: {', '.join(names)}")
        if not 1 <= len(self.holders) <= HOLDERS_LIMIT:
            raise ParameterError(f"{len(self.holders)} holders, allowed are 1 to {HOLDERS_LIMIT}")

    def role_of(self, name: str) -> Role:
        """The role of one of them."""
        return Role.REQUESTER if name == self.requester else Role.ROUTER if name == self.router else Role.HOLDER

    def others(self, name: str) -> tuple[str, ...]:
        """Everybody but `name`."""
        return tuple(other for other in (self.requester, self.router, *self.holders) if other != name)

    def ring(self, holder: str) -> tuple[str, str, str]:
        """The ring of one holder: holder, requester, router."""
        return holder, self.requester, self.router
