"""`console.db`: who may sign in, who is signed in, and what happened at the door. Staff itself is in the casework."""

from __future__ import annotations

from sqlalchemy import BigInteger, Integer, LargeBinary, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Identifier = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """Base of the tables."""


class AccountRow(Base):
    """How a person signs in. `password`: argon2id. `invite`: SHA-256 of a one-time token.

    `credential`: of a passkey; empty for a key file, None before there is a key.
    """

    __tablename__ = "account"
    handle: Mapped[str] = mapped_column(String(63), primary_key=True)
    password: Mapped[str | None] = mapped_column(String(256))
    credential: Mapped[bytes | None] = mapped_column(LargeBinary)
    sign_count: Mapped[int] = mapped_column(BigInteger, default=0)
    failures: Mapped[int] = mapped_column(Integer, default=0)
    locked_until: Mapped[int] = mapped_column(BigInteger, default=0)
    invite: Mapped[bytes | None] = mapped_column(LargeBinary, unique=True)
    invite_expires: Mapped[int] = mapped_column(BigInteger, default=0)


class SessionRow(Base):
    """`token`: SHA-256 of what the browser holds. `stage`: password (a key is still asked for), enrol, full."""

    __tablename__ = "session"
    token: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    handle: Mapped[str] = mapped_column(String(63), index=True)
    stage: Mapped[str] = mapped_column(String(8))
    made: Mapped[int] = mapped_column(BigInteger)
    seen: Mapped[int] = mapped_column(BigInteger)
    challenge: Mapped[bytes | None] = mapped_column(LargeBinary)  # that the key must sign now


class DoorRow(Base):
    """What happened at the door."""

    __tablename__ = "door"
    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    time: Mapped[int] = mapped_column(BigInteger, index=True)
    handle: Mapped[str] = mapped_column(String(63))
    what: Mapped[str] = mapped_column(String(32))
