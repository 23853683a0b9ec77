"""What the console raises.

::

    LineupError
    └── ConsoleError
        ├── SignInRefused     handle, password, key or token; never says which
        ├── SignedOut         no session, or one that has ended
        ├── TooMany           a rate limit; `seconds`: until the next try
        ├── FormRefused       a form without its token, or from another site
        ├── EntryRefused      something entered that does not fit (also an `InputError`)
        └── UploadRefused     a file that is not taken (also an `InputError`)
"""

from __future__ import annotations

from nodes.console.texts import text
from pets.errors import InputError, LineupError


class ConsoleError(LineupError):
    """Base of everything the console raises."""


class SignInRefused(ConsoleError):
    """One answer to every failed log-in."""

    def __init__(self) -> None:
        super().__init__(text("refused.sign-in"))


class SignedOut(ConsoleError):
    """There is no session, or it has ended."""

    def __init__(self) -> None:
        super().__init__(text("refused.signed-out"))


class TooMany(ConsoleError):
    """A rate limit. `seconds`: until the next try."""

    def __init__(self, seconds: int) -> None:
        super().__init__(text("refused.too-many").format(seconds=seconds))
        self.seconds = seconds


class FormRefused(ConsoleError):
    """A form that this console did not make, or made for another session."""

    def __init__(self) -> None:
        super().__init__(text("refused.form-token"))


class EntryRefused(ConsoleError, InputError):
    """Something entered that does not fit."""


class UploadRefused(ConsoleError, InputError):
    """A file that is not taken."""
