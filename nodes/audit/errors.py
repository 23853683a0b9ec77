"""What an audit refuses to look at."""

from __future__ import annotations

from pets.errors import InputError


class AuditRefused(InputError):
    """There is nothing to audit, or the files do not fit together."""
