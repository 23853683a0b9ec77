"""Where `lineup` begins. Loading the command line takes a second, in which it may be interrupted already."""

from __future__ import annotations

import sys


def main() -> None:
    """Run `lineup`; status 130, and no trace of Python, if it is interrupted before it was loaded."""
    try:
        from nodes.cli.app import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
