"""A `lineup` that is a fork of one that is loaded ends as a process of its own does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OWN = "import sys\n{body}"
FORK = """
import os
import nodes.cli.__main__ as program
from tests.kit import preloaded
def main():
    import sys
    {body}
program.main = main
preloaded.run([], ".", dict(os.environ), [os.dup(0), os.dup(1), os.dup(2)])
"""
ENDS = {
    "well": "print('told')",
    "a status": "print('told'); sys.exit(3)",
    "a status of more than a byte": "sys.exit(259)",
    "a word": "sys.exit('what is wrong')",
    "nothing": "sys.exit(None)",
    "an error": "print('told'); raise ValueError('planted')",
    "an interruption": "raise KeyboardInterrupt",
    "a thread that goes on": (
        "import threading, time; threading.Thread(target=lambda: (time.sleep(0.3), print('late'))).start()"
    ),
    "what is to be done at the end": "import atexit; atexit.register(print, 'at the end')",
}


def ended(program: str, stdout: int | None = subprocess.PIPE) -> tuple[int, str | None, str]:
    """Status, as a shell tells it, output, and the last line of what is wrong."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60,
    )  # fmt: skip
    status = done.returncode if done.returncode >= 0 else 128 - done.returncode
    return status, done.stdout, (done.stderr.splitlines() or [""])[-1]


@pytest.mark.parametrize("body", ENDS.values(), ids=ENDS)
def test_a_fork_ends_as_a_process_of_its_own(body: str) -> None:
    assert ended(FORK.format(body=body)) == ended(OWN.format(body=body))


def test_a_fork_whose_output_cannot_be_written_says_so(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        status, _, told = ended(FORK.format(body=ENDS["well"]), full.fileno())
        own, _, _ = ended(OWN.format(body=ENDS["well"]), full.fileno())
    assert status == own == 120
    assert "No space left" in told
