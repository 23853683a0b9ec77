"""What can go wrong with a log.

::

    LogError                        (a pets.errors.LineupError)
    ├── LogTampered                 entries were rewritten, removed or erased too early; names them
    ├── CheckpointError             (these four: `nodes.logs.checkpoints`)
    │   ├── BadCheckpoint           a signature that does not hold, another log, a clock that ran backwards
    │   └── InconsistentCheckpoints no proof that the newer log extends the older one
    │       └── SplitView           two signed roots for one size: proof by itself that the log cheated
    ├── DisclosureRefused           a disclosed entry is not the one in the log
    ├── EntryRefused                not an entry of this log's schema
    ├── EntryErased                 its key is gone
    ├── OrderRefused                a supervisor's order that cannot be obeyed (also an `InputError`)
    └── LogUnusable                 not a log, closed
        └── LogInUse                another process has it open
"""

from __future__ import annotations

from pets.errors import InputError, LineupError


class LogError(LineupError):
    """Base of everything that goes wrong with a log."""


class LogTampered(LogError):
    """Entries `first` to `last` (both included) are not what they were."""

    def __init__(self, first: int, last: int, reason: str) -> None:
        self.first, self.last, self.reason = first, last, reason
        which = f"entry {first}" if first == last else f"entries {first} to {last}"
        super().__init__(f"{which}: {reason}")


class DisclosureRefused(LogError):
    """A disclosed entry is not the one that the checkpoint stands for."""


class EntryRefused(LogError):
    """Not an entry of this log's schema."""


class EntryErased(LogError):
    """The entry's key was destroyed."""


class OrderRefused(LogError, InputError):
    """A hold or its lifting that cannot be obeyed."""


class LogUnusable(LogError):
    """A folder that is not a log, or a log that cannot be used."""


class LogInUse(LogUnusable):
    """Another process has this log open, such as the running node."""
