"""What the storage raises.

::

    StoreError
    ├── StoreUnavailable            cannot be opened, connection lost, input or output fails
    │   ├── StoreLocked             somebody else held the database for longer than the limit
    │   └── StoreFull               no space left
    ├── StoreCorrupted              a record does not decrypt, or holds what was never written
    ├── StoreLost                   less, or other, than the node had
    ├── StoreVersionError           the database was written by a newer version of the software
    ├── WrongStorageKey             the database was encrypted under another key
    ├── QueryReplayed               a query, or a step of one, was already answered
    ├── QuotaExceeded               a state has used up its queries, or preparations, of the day
    └── StoreRefusal                refused data or settings (also an `InputError`)
        ├── StorageKeyError         a key file or variable that cannot be used
        ├── CategoryNotAllowed      a category that this node may not hold
        ├── DuplicatePhoto          the same photo is already enrolled
        ├── EnrolmentConflict       an interrupted enrolment was continued with other particulars
        ├── UnknownReference        no such subject, or no longer
        └── EmptyStore              nothing was ever enrolled

No message holds a template, a photo, a key, an authority's reference, or the parameters of an SQL statement.
"""

from __future__ import annotations

from pets.errors import InputError, LineupError

PREPARATION = "preparation"  # what is counted of a state and day beside queries


class StoreError(LineupError):
    """Base of everything the storage raises."""


class StoreUnavailable(StoreError):
    """The database cannot be opened or used."""


class StoreLocked(StoreUnavailable):
    """The database was held by somebody else for too long."""


class StoreFull(StoreUnavailable):
    """The disk, or the space given to the database, is full."""


class StoreCorrupted(StoreError):
    """A record cannot be read. The message names its reference number, never its content."""


class StoreLost(StoreError):
    """The database holds less than the node had, or something else, or cannot be read. The message says what to do."""


class StoreVersionError(StoreError):
    """The database is newer than this software."""


class WrongStorageKey(StoreError):
    """The key is not the one the database was encrypted under."""


class QueryReplayed(StoreError):
    """A query identifier came a second time. `same_message`: whether with the same message as before."""

    def __init__(self, query_id: bytes, step: str, same_message: bool) -> None:
        how = "with the same message" if same_message else "with another message"
        super().__init__(f"query {query_id.hex()[:16]}…, step {step!r}, was already answered; it came again {how}")
        self.query_id = query_id
        self.step = step
        self.same_message = same_message


class QuotaExceeded(StoreError):
    """A daily capacity of a requesting state is used up: queries (Article 23(1)) or preparations. `limit`: a day."""

    def __init__(self, state: str, kind: str, day: str, limit: int) -> None:
        what, whom = ("preparations", "") if kind == PREPARATION else ("queries", f" for {kind} persons")
        super().__init__(f"state {state} has used its {limit} {what} of {day}{whom}")
        self.state = state
        self.kind = kind
        self.day = day
        self.limit = limit


class StoreRefusal(StoreError, InputError):
    """Refused data or settings."""


class StorageKeyError(StoreRefusal):
    """A storage key that is missing, malformed, or readable by others."""


class CategoryNotAllowed(StoreRefusal):
    """A category outside the allow-list of this node (Article 19(1), Article 29)."""


class DuplicatePhoto(StoreRefusal):
    """The same photo, byte for byte, is already enrolled under `reference`."""

    def __init__(self, reference: str) -> None:
        super().__init__(f"this photo is already enrolled under {reference}")
        self.reference = reference


class EnrolmentConflict(StoreRefusal):
    """An enrolment was continued with another category, status, retention date or length than it began with."""


class UnknownReference(StoreRefusal):
    """No subject has this reference number, or no longer."""


class EmptyStore(StoreRefusal):
    """Nothing was ever enrolled, so there is no model and no dimension."""
