"""What nodes wrote, and whether anything stands in it that must not."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping

from pets.templates import Templates
from tests.kit.federation import PLANTED, ROLES, Federation


class Capture(logging.Handler):
    """Everything logged, formatted as a node would."""

    def __init__(self) -> None:
        from nodes.service.json_logs import JsonFormatter

        super().__init__()
        self.setFormatter(JsonFormatter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@contextlib.contextmanager
def captured_logs() -> Iterator[Capture]:
    """As `serve` sets logging up, but into memory."""
    handler, root, lineup = Capture(), logging.getLogger(), logging.getLogger("lineup")
    levels = root.level, lineup.level
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    lineup.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        root.removeHandler(handler)
        root.setLevel(levels[0])
        lineup.setLevel(levels[1])


def secrets_of(federation: Federation, *probes: Templates) -> dict[str, bytes]:
    """What must not be found in anything but sealed files and the encrypted store, by name."""
    found = {name: text.encode() for name, text in PLANTED.items()}
    for index, probe in enumerate(probes):
        found[f"probe {index}"] = probe.tobytes()[:24]
        found[f"probe {index} as numbers"] = ", ".join(str(int(value)) for value in probe[:8]).encode()
    for name, references in federation.references.items():
        for row in (17, 5, 60, 100, 115):
            found[f"reference {name} {row}"] = references[row].encode()
            found[f"template {name} {row}"] = federation.people.galleries[name][row].tobytes()[:24]
    return found


def leaks(federation: Federation, secrets: Mapping[str, bytes], more: bytes = b"") -> list[str]:
    """Where a secret stands in clear: in a log, an evidence file, or `more`. The store keeps references in clear."""
    places = {"captured": more}
    for name in ROLES:
        folder = federation.folder(name)
        for path in [
            *folder.glob("logs/**/*"),
            *folder.glob("evidence/*"),
            *folder.glob("sealed/*"),
            *folder.glob("*.log"),
        ]:
            if path.is_file():
                places[str(path)] = path.read_bytes()
    return [
        f"{what} in {place}"
        for place, content in places.items()
        for what, secret in secrets.items()
        if secret in content or secret.hex().encode() in content
    ]
