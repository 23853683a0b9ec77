"""The walk of the README as its reader would do it: the commands are taken from there, and real processes run them,
which are forks of one that has loaded `lineup` (`preloaded.py`).

What stands there in capitals is filled in from what was printed before; `# stop NAME` ends that node as Ctrl-C does.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from tests.kit.preloaded import preloaded

README = Path(__file__).parents[2] / "README.md"
READY_SECONDS = 120.0
COMMAND_SECONDS = 300.0
PORTS = ("8441", "8442", "8443", "8444")

# What differs from run to run, in the order in which it is looked for.
CHANGING = (
    (r"\b([A-Z]{2})-[0-9a-f]{32}\b", r"\1-REFERENCE"),
    (r"\b([A-Z]{2})-[0-9a-f]{16}\b", r"\1-NUMBER"),
    (r"\b[0-9a-f]{64}\b", "FINGERPRINT"),
    (r"\b[0-9a-f]{32}\b", "ID"),
    (r"\b\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2})?(\+00:00)?", "TIME"),
    (r"\b20\d{2}-\d{2}-\d{2}\b", "DAY"),
    (r"\b\d+\.\d+ s\b", "SECONDS s"),
    (r"\blost-\d+\b", "lost-SECONDS"),
    (r"\b[\d,]+ bytes\b", "N bytes"),
    (r"\b[0-9a-f]{8}…", "ID…"),
    (r"\bchecked in \d{2,} places\b", "checked in N places"),  # what nodes showed each other between queries counts too
    (r"\bsquared norm \d+\b", "squared norm N"),  # of what a face model computed, which depends on the processor
    # How fast the machine is decides whether a node at rest has refilled by now.
    (r"^(nothing fitting waited: prepared now, in SECONDS s|a preparation waited and was used)$", "WAITED OR MADE NOW"),
)
TABLES = ("lineup verify", "lineup audit")  # of these the words are told, a row a line, and not how they are set
FRAME = re.compile("[\u2500-\u257f]+")


def commands(*sections: str, of: Path = README) -> list[str]:
    """The lines of the code blocks in sections of a README, without comments; `# stop` is none."""
    text, found = of.read_text(), []
    for section in sections:
        part = text.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
        for block in re.findall(r"(?ms)^```\n(.*?)^```$", part):
            found += [line.split("  #")[0].rstrip() for line in block.splitlines()]
    return found


class Walk:
    """One walk in a folder. `said`: a transcript, commands after `$ `, without what changes from run to run."""

    def __init__(
        self, folder: Path, ports: Iterable[int], environment: dict[str, str] | None = None, *programs: Path
    ) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.seen: dict[str, list[str]] = {"REFERENCE": [], "ID": []}
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = dict(zip(PORTS, map(str, ports), strict=True))
        path = os.pathsep.join(map(str, (preloaded().program.parent, *programs, os.environ["PATH"])))
        self._environment = {**os.environ, "PATH": path, "COLUMNS": "4000", **(environment or {})}

    def run(self, line: str) -> str:
        """One command; gives what it printed. A node that is to go on is ready afterwards."""
        if stop := re.match(r"# stop (\w+)", line):
            self.stop(stop[1])
            self.said.append(f"$ {line}")
            return ""
        filled = self.fill(line)
        self.said.append(f"$ {line}")
        if line.endswith("&"):
            self._serve(filled.rstrip("& "))
            return ""
        done = subprocess.run(
            ["bash", "-c", filled],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )
        printed = done.stdout + done.stderr
        for name, pattern in (("REFERENCE", r"\bES-[0-9a-f]{32}\b"), ("ID", r"(?<=query )[0-9a-f]{32}(?=:)")):
            self.seen[name] += re.findall(pattern, printed)
        shown = [row for row in printed.splitlines() if not row.startswith('{"time"')]  # a node's log
        shown = [self._steady(row) for row in shown]
        self.said += [row for row in map(unframed, shown) if row] if line.startswith(TABLES) else shown
        if done.returncode:
            self.said.append(f"(status {done.returncode})")
        return printed

    def fill(self, line: str) -> str:
        """With ports that are free here, and what was printed before."""
        for port, free in self._ports.items():
            line = line.replace(f":{port}", f":{free}")
        for name, at in (("REFERENCE", 0), ("ID", -1)):
            if re.search(rf"\b{name}\b", line):
                line = re.sub(rf"\b{name}\b", self.seen[name][at], line)
        return line

    def stop(self, name: str) -> None:
        """As Ctrl-C does."""
        process = self.nodes.pop(name)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, self.log(name)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def close(self) -> None:
        for process in self.nodes.values():
            process.kill()
            process.wait()

    def _serve(self, command: str) -> None:
        words = shlex.split(command)
        name = words[words.index("--dir") + 1]
        log = self.folder / f"{name}.log"
        log.unlink(missing_ok=True)
        with log.open("wb") as stream:
            self.nodes[name] = subprocess.Popen(
                words, cwd=self.folder, env=self._environment, stdout=stream, stderr=stream
            )
        deadline = time.monotonic() + READY_SECONDS
        while '"message": "ready"' not in self.log(name):
            assert self.nodes[name].poll() is None, self.log(name)
            assert time.monotonic() < deadline, self.log(name)
            time.sleep(0.1)

    def _steady(self, row: str) -> str:
        row = row.replace(f"{self.folder}/", "")
        for port, free in self._ports.items():
            row = row.replace(f":{free}", f":{port}")
        for pattern, word in CHANGING:
            row = re.sub(pattern, word, row)
        return row.rstrip()


def unframed(row: str) -> str:
    """The words of a line of a table, two spaces between the cells."""
    return re.sub(r"\s{2,}", "  ", FRAME.sub("  ", row)).strip()


def chunks(transcript: str) -> list[tuple[str, str]]:
    """Each command of a transcript, and what it printed."""
    parts = re.split(r"(?m)^\$ ", transcript)[1:]
    return [(command, printed) for command, _, printed in (part.partition("\n") for part in parts)]
