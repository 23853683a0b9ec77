"""What a running node logs: one JSON object a line, with nothing personal in it."""

from __future__ import annotations

import json
import logging


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the closed list of fields below."""

    FIELDS = ("node", "query", "preparation", "session", "state", "error", "code", "peer", "by", "seconds")

    def format(self, record: logging.LogRecord) -> str:
        """One line. Exception texts are left out: they may quote input; their type stays."""
        entry: dict[str, object] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _first_line(record),
        }
        entry |= {name: record.__dict__[name] for name in self.FIELDS if record.__dict__.get(name) is not None}
        if record.exc_info and record.exc_info[0] is not None:
            entry["error"] = record.exc_info[0].__name__
        return json.dumps(entry)


def _first_line(record: logging.LogRecord) -> str:
    """What happened. asyncio's further lines show tasks and exceptions with their values."""
    lines = record.getMessage().splitlines()
    return lines[0] if lines else ""


def set_up_logging() -> None:
    """One line of JSON an event, on standard error: of this project from INFO, of libraries from WARNING."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("lineup").setLevel(logging.INFO)
