"""`make demo-console`: four consoles that answer on loopback alone, log-ins that work, nothing left behind.

Its nine processes are forks of one that is loaded. `lineup demo` shows that nodes start without, `test_beside.py` that
a router with its console does.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from nodes.console.client import ConsoleClient, ConsoleUnreachable, key_file
from tests.kit.preloaded import BEFORE, preloaded

LAST_LINE = "Ctrl-C ends the demo"
FORKS = """
import nodes.cli.demo, nodes.cli.demo_console
for module in (nodes.cli.demo, nodes.cli.demo_console):
    module.lineup = lambda *arguments: [{program!r}, *map(str, arguments)]
"""


def read_until(process: subprocess.Popen[str], line: str) -> str:
    assert process.stdout is not None
    text = ""
    for one in process.stdout:
        text += one
        if line in one:
            return text
    raise AssertionError(text)


def test_the_demo_prints_log_ins_that_work_and_leaves_nothing_behind() -> None:
    program = str(preloaded().program)
    command = [program, "console", "demo", "--provider", "cpu"]
    environment = {**os.environ, BEFORE: FORKS.format(program=program)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        try:
            text = read_until(process, LAST_LINE)
            consoles = dict(re.findall(r"console of \w+ \((\w+)\): (http://localhost:\d+)", text))
            assert set(consoles) == {"requester", "holder", "router"}
            password = re.search(r"password: (\S+)", text)
            key = re.search(r"(\S+FR-olivia\.key)", text)
            assert password
            assert key
            root = Path(key[1]).parents[1]
            with ConsoleClient(consoles["requester"]) as client:
                client.sign_in("olivia", password[1], key_file(Path(key[1])))
                assert sorted(view.state for view in client.queries()) == ["draft", "review"]
            outside = socket.gethostbyname(socket.gethostname())
            if not outside.startswith("127."):
                for address in consoles.values():
                    port = int(address.rsplit(":", 1)[1])
                    with pytest.raises(ConnectionError), socket.create_connection((outside, port), timeout=2):
                        pass
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    assert not root.exists()
    with ConsoleClient(consoles["requester"]) as client, pytest.raises(ConsoleUnreachable):
        client.sign_in("olivia", password[1], lambda _digest, _options: "")
