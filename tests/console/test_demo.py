"""`make demo-console`: four consoles that answer on loopback alone, log-ins that work, nothing left behind."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nodes.console.client import ConsoleClient, ConsoleUnreachable, key_file

LAST_LINE = "Ctrl-C ends the demo"


def read_until(process: subprocess.Popen[str], line: str) -> str:
    assert process.stdout is not None
    text = ""
    for one in process.stdout:
        text += one
        if line in one:
            return text
    raise AssertionError(text)


def test_the_demo_prints_log_ins_that_work_and_leaves_nothing_behind() -> None:
    command = [sys.executable, "-m", "nodes.cli", "console", "demo", "--provider", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
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
