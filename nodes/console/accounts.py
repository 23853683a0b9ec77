"""Signing in: a password (argon2id), then a signature by the person's own key. Sessions live on the server.

The browser holds 32 random bytes, the database their hash. A session's token changes when the second factor is given,
so one that was planted before is worth nothing. Whoever fails `lock_after` times in a row is shut out for a while.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from nodes.config.console import ConsoleConfig
from nodes.console.errors import ConsoleError, SignedOut, SignInRefused
from nodes.console.migrations import upgrade
from nodes.console.tables import AccountRow, DoorRow, SessionRow
from nodes.console.texts import text
from nodes.store.database import Database
from pets.errors import InputError
from pets.prf import labelled_hash

Stage = Literal["password", "enrol", "full"]
MIN_PASSWORD = 12
MAX_PASSWORD = 200
INVITE_SECONDS = 24 * 3600
HALF_SECONDS = 300  # to give the second factor
DOOR_DAYS = 365
_TOKEN_BYTES = 32


class PasswordRefused(ConsoleError, InputError):
    """A password that is too short, too long, or the person's handle."""


@dataclass(frozen=True)
class SignedIn:
    """A session. `token`: what the browser holds; `challenge`: what the key must sign now, 32 bytes."""

    token: str = field(repr=False)
    handle: str
    stage: Stage
    challenge: bytes | None = field(repr=False)


class Accounts:
    """All of `console.db`, which is brought up to date. `clock`: UTC. Raises `StoreVersionError`, `StoreError`."""

    def __init__(self, url: str, settings: ConsoleConfig, clock: Callable[[], datetime]) -> None:
        self._database = Database(url)
        try:
            upgrade(self._database)
        except BaseException:
            self._database.close()
            raise
        self._settings = settings
        self._clock = clock
        self._hasher = PasswordHasher()
        self._nobody = self._hasher.hash(secrets.token_hex(16))  # so that an unknown handle takes as long

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    @property
    def empty(self) -> bool:
        """Whether nobody has a password yet: then the first administrator is to come."""
        with self._database.reading() as session:
            return not session.scalar(select(func.count()).where(AccountRow.password.is_not(None)))

    def invite(self, handle: str) -> str:
        """A one-time token by which a person sets a password and a key; what the person had, sessions too, ends."""
        token = secrets.token_urlsafe(24)
        with self._database.writing() as session:
            row = session.get(AccountRow, handle) or AccountRow(handle=handle, sign_count=0, failures=0, locked_until=0)
            row.invite, row.invite_expires = _hash(token), self._now() + INVITE_SECONDS
            row.password = row.credential = None
            session.add(row)
            session.execute(delete(SessionRow).where(SessionRow.handle == handle))
            self._note(session, handle, "invited")
        return token

    def accept(self, token: str, password: str) -> SignedIn:
        """Set the password of whoever was invited; the key comes next. Raises `SignInRefused`, `PasswordRefused`."""
        with self._database.writing() as session:
            row = session.scalar(select(AccountRow).where(AccountRow.invite == _hash(token)))
            if row is None or row.invite_expires < self._now():
                raise SignInRefused
            row.password = self._hasher.hash(check_password(password, row.handle))
            row.invite, row.failures, row.locked_until = None, 0, 0
            self._note(session, row.handle, "password set")
            return self._begin(session, row.handle, "enrol")

    def sign_in(self, handle: str, password: str) -> SignedIn:
        """First factor. Raises `SignInRefused` for whatever is wrong, after the same work."""
        with self._database.reading() as session:
            row = session.get(AccountRow, handle)
            known = self._nobody if row is None or row.password is None else row.password
        right = self._verify(known, password[:MAX_PASSWORD])
        with self._database.writing() as session:
            row = session.get(AccountRow, handle)
            if row is None or row.password is None:
                self._note(session, handle[:63], "unknown")
                refused = True
            elif row.locked_until > self._now():
                self._note(session, handle, "locked out")
                refused = True
            elif not right or row.password != known:
                self._fail(session, row)
                refused = True
            else:
                refused = False
                self._note(session, handle, "password")
                return self._begin(session, handle, "password" if row.credential is not None else "enrol")
        assert refused  # outside, so that what was noted stays
        raise SignInRefused

    def failed_key(self, signed_in: SignedIn) -> None:
        """The second factor did not hold: it counts like a wrong password, and the half session ends."""
        with self._database.writing() as session:
            row = session.get(AccountRow, signed_in.handle)
            if row is not None:
                self._fail(session, row)
            session.execute(delete(SessionRow).where(SessionRow.token == _hash(signed_in.token)))

    def key_enrolled(self, signed_in: SignedIn, credential: bytes, sign_count: int) -> SignedIn:
        """The key was shown to be the person's own; gives the full session. `credential`: empty for a key file."""
        with self._database.writing() as session:
            row = session.get(AccountRow, signed_in.handle)
            assert row is not None
            row.credential, row.sign_count = credential, sign_count
            self._note(session, row.handle, "key enrolled")
            return self._renew(session, signed_in)

    def key_shown(self, signed_in: SignedIn, sign_count: int) -> SignedIn:
        """Second factor given. Raises `SignInRefused` for a counter that runs back: the key was copied."""
        with self._database.writing() as session:
            row = session.get(AccountRow, signed_in.handle)
            assert row is not None
            copied = bool(sign_count or row.sign_count) and sign_count <= row.sign_count and bool(row.credential)
            if not copied:
                row.sign_count, row.failures = sign_count, 0
                self._note(session, row.handle, "signed in")
                return self._renew(session, signed_in)
            self._note(session, row.handle, "key copied")
        raise SignInRefused

    def credential(self, handle: str) -> bytes | None:
        """Credential ID of the person's passkey; empty for a key file, None before there is a key."""
        with self._database.reading() as session:
            row = session.get(AccountRow, handle)
            return None if row is None else row.credential

    def session(self, token: str) -> SignedIn:
        """Who holds a token. Raises `SignedOut`."""
        now, settings = self._now(), self._settings
        with self._database.writing() as session:
            row = session.get(SessionRow, _hash(token))
            if row is None:
                raise SignedOut
            idle = settings.session_minutes * 60 if row.stage == "full" else HALF_SECONDS
            over = now > row.seen + idle or now > row.made + settings.session_hours * 3600
            if not over:
                if row.stage == "full":
                    row.seen = now
                return SignedIn(token, row.handle, row.stage, row.challenge)  # type: ignore[arg-type]
            session.delete(row)
        raise SignedOut

    def challenge(self, signed_in: SignedIn) -> bytes:
        """Something fresh for the key to sign; hashed under a label, so that it is never a decision's digest."""
        challenge = labelled_hash("console-sign-in", secrets.token_bytes(32))
        with self._database.writing() as session:
            row = session.get(SessionRow, _hash(signed_in.token))
            if row is None:
                raise SignedOut
            row.challenge = challenge
        return challenge

    def take_challenge(self, signed_in: SignedIn) -> bytes:
        """What the key had to sign, once: a second answer finds nothing. Raises `SignedOut`."""
        with self._database.writing() as session:
            row = session.get(SessionRow, _hash(signed_in.token))
            challenge = None if row is None else row.challenge
            if row is None or challenge is None:
                raise SignedOut
            row.challenge = None
        return challenge

    def sign_out(self, token: str) -> None:
        """End a session."""
        with self._database.writing() as session:
            session.execute(delete(SessionRow).where(SessionRow.token == _hash(token)))

    def shut(self, handle: str) -> None:
        """End an account and its sessions."""
        with self._database.writing() as session:
            session.execute(delete(SessionRow).where(SessionRow.handle == handle))
            session.execute(delete(AccountRow).where(AccountRow.handle == handle))
            self._note(session, handle, "closed")

    def door(self, limit: int = 200) -> list[tuple[int, str, str]]:
        """What happened at the door, the last first: time, handle, what."""
        with self._database.reading() as session:
            rows = session.scalars(select(DoorRow).order_by(DoorRow.id.desc()).limit(limit))
            return [(row.time, row.handle, row.what) for row in rows]

    def _begin(self, session: Session, handle: str, stage: Stage) -> SignedIn:
        now, token = self._now(), secrets.token_urlsafe(_TOKEN_BYTES)
        session.execute(delete(SessionRow).where(SessionRow.made < now - 24 * 3600))
        session.add(SessionRow(token=_hash(token), handle=handle, stage=stage, made=now, seen=now))
        return SignedIn(token, handle, stage, None)

    def _renew(self, session: Session, signed_in: SignedIn) -> SignedIn:
        session.execute(delete(SessionRow).where(SessionRow.token == _hash(signed_in.token)))
        return self._begin(session, signed_in.handle, "full")

    def _fail(self, session: Session, row: AccountRow) -> None:
        row.failures += 1
        self._note(session, row.handle, "failed")
        if row.failures >= self._settings.lock_after:
            row.failures, row.locked_until = 0, self._now() + 60 * self._settings.lock_minutes
            self._note(session, row.handle, "locked")

    def _note(self, session: Session, handle: str, what: str) -> None:
        now = self._now()
        session.execute(delete(DoorRow).where(DoorRow.time < now - DOOR_DAYS * 24 * 3600))
        session.add(DoorRow(time=now, handle=handle, what=what))

    def _verify(self, known: str, password: str) -> bool:
        try:
            return self._hasher.verify(known, password)
        except (VerifyMismatchError, InvalidHashError):
            return False

    def _now(self) -> int:
        return int(self._clock().timestamp())


def check_password(password: str, handle: str) -> str:
    """The password. Raises `PasswordRefused`."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise PasswordRefused(
            text("refused.password-length").format(least=MIN_PASSWORD, most=MAX_PASSWORD, got=len(password))
        )
    if handle in password.lower() or len(set(password)) < 6:
        raise PasswordRefused(text("refused.password-guessed"))
    return password


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
