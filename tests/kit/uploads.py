"""Hostile files, and what a page shows of a file."""

from __future__ import annotations

import base64
import html
import re
import struct
import zlib
from functools import cache

SCRIPT = b"<script>alert('planted')</script>"


def shown_pictures(page: str) -> list[bytes]:
    found = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", html.unescape(page))
    return [base64.b64decode(one) for one in found]


@cache
def bomb(side: int) -> bytes:
    """A PNG of one colour that says `side` x `side`: small as a file, huge in memory."""
    row = b"\0" * (side * 3 + 1)
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
