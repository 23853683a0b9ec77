"""What an object shows of itself ends in logs and tracebacks: those that hold secrets or templates show their kind."""

from __future__ import annotations


def kind_only(thing: object) -> str:
    """A `__repr__` that names the class and nothing else."""
    return f"<{type(thing).__name__}>"
