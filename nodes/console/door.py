"""Who comes in: the first administrator, invitations, password, key, out. The same for pages and API.

Each operation but those that begin a session takes the session's token, as the browser's cookie or a program holds it.
"""

from __future__ import annotations

import hmac

from nodes.casework.errors import UnknownThing
from nodes.console import contracts as c
from nodes.console import passkeys
from nodes.console.accounts import Accounts, SignedIn
from nodes.console.errors import SignedOut, SignInRefused
from nodes.console.operations import Operations
from protocol.approval import PersonRole

FIRST_ROLES: tuple[PersonRole, ...] = ("admin",)


class Door:
    """For one node. `first_token`: of the first administrator, until it is used."""

    def __init__(self, operations: Operations, accounts: Accounts, first_token: str | None) -> None:
        self._operations = operations
        self._accounts = accounts
        self.first_token = first_token

    def unclaimed(self) -> bool:
        """Whether the first administrator is still to come."""
        return self._accounts.empty and self.first_token is not None

    def first(self, given: c.First) -> c.Half:
        """The first administrator, with the token that stands on the terminal. Raises `SignInRefused`."""
        known = self.first_token if self._accounts.empty else None
        if known is None or not hmac.compare_digest(given.token.encode(), known.encode()):
            raise SignInRefused
        desk = self._operations.desk
        try:
            desk.person(given.handle).needs("admin")
        except UnknownThing:
            desk.add_person(None, given.handle, given.name, FIRST_ROLES)
        half = self.join(c.Joining(self._accounts.invite(given.handle), given.password))
        self.first_token = None
        return half

    def join(self, given: c.Joining) -> c.Half:
        """Take up an invitation: set a password; the key comes next. Raises `SignInRefused`, `PasswordRefused`."""
        return self._half(self._accounts.accept(given.token, given.password))

    def sign_in(self, given: c.Credentials) -> c.Half:
        """First factor. Raises `SignInRefused` for whatever is wrong."""
        return self._half(self._accounts.sign_in(given.handle, given.password))

    def challenge(self, token: str) -> c.Half:
        """Something fresh for the key to sign. Raises `SignedOut`."""
        return self._half(self._session(token, "password", "enrol"))

    def give_key(self, token: str, signed: c.Signed) -> c.SessionToken:
        """Second factor: a signature by the person's key. Raises `SignInRefused`, `SignedOut`."""
        half = self._session(token, "password")
        challenge = self._accounts.take_challenge(half)
        person, credential = self._operations.person(half.handle), self._accounts.credential(half.handle)
        try:
            count = passkeys.check_sign_in(person.key, credential, signed.assertion, challenge)
        except SignInRefused:
            self._accounts.failed_key(half)
            raise
        return c.SessionToken(self._accounts.key_shown(half, count).token)

    def set_key(self, token: str, given: c.NewKey) -> c.SessionToken:
        """Whoever was invited shows a key to be their own. Raises `KeyRefused`, `SignedOut`."""
        half, settings = self._session(token, "enrol"), self._operations.config.console
        challenge = self._accounts.take_challenge(half)
        if given.assertion.startswith("{"):
            made, credential, count = passkeys.registered(settings, given.assertion, challenge)
        else:
            made, credential, count = passkeys.key_file(given.public, given.assertion, challenge), b"", 0
        self._operations.desk.set_key(None, self._operations.person(half.handle), made)
        return c.SessionToken(self._accounts.key_enrolled(half, credential, count).token)

    def sign_out(self, token: str) -> c.Done:
        """End the session. Raises `SignedOut` where there is none."""
        self._accounts.session(token)
        self._accounts.sign_out(token)
        return c.Done("signed out")

    def _session(self, token: str, *stages: str) -> SignedIn:
        session = self._accounts.session(token)
        if session.stage not in stages:
            raise SignedOut
        return session

    def _half(self, half: SignedIn) -> c.Half:
        challenge, settings = self._accounts.challenge(half), self._operations.config.console
        if half.stage == "enrol":
            options = passkeys.to_register(settings, half.handle, challenge)
            return c.Half(half.token, "enrol", challenge.hex(), options)
        return c.Half(half.token, "password", challenge.hex(), self._operations.options(half.handle, challenge))
