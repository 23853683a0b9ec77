"""HTTP/1.1 without what two programs may read differently: a proxy in front and the node must see the same requests.

RFC 9112 lets a server take a bare LF for a line end (2.2), unfold headers (5.2), and prefer Transfer-Encoding to
Content-Length (6.1). Each of these has let requests through that a proxy did not see; no client of ours needs them.
"""

from __future__ import annotations

import re

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

END = b"\r\n\r\n"
ODD_LINE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\r\n[ \t]")
LENGTHS = (rb"\r\ncontent-length[ \t]*:", rb"\r\ntransfer-encoding[ \t]*:")


def is_plain_head(head: bytes) -> bool:
    """Whether what came of a request's head ends its lines with CR LF, folds none, and says its length one way."""
    return ODD_LINE.search(head) is None and not all(re.search(name, head, re.IGNORECASE) for name in LENGTHS)


class StrictProtocol(H11Protocol):
    """Refuses such a head, and closes the connection."""

    def handle_events(self) -> None:
        """Called when bytes came or an answer was sent: if a head is next, it is looked at before it is parsed."""
        if self.conn.their_state is h11.IDLE:
            head, _, _ = self.conn.trailing_data[0].partition(END)
            if not is_plain_head(head):
                self.logger.warning("a request head with odd line ends or two lengths was refused")
                self.send_400_response("Invalid HTTP request received.")
                return
        super().handle_events()
