"""ANSI/NIST-ITL files that keep a parser busy. They begin with one that `write_face` made for ES."""

from __future__ import annotations

FLOODS = {
    "subfields": lambda data: data.replace(b"10.004:ES", b"10.004:" + b"\x1e".join([b"x\x1fy"] * 60_000)),
    "contents": lambda data: data.replace(b"10\x1f1\x1d", b"10\x1f1" + b"\x1e10\x1f1" * 60_000 + b"\x1d", 1),
    "records": lambda data: data.split(b"\x1c", 1)[0] + b"\x1c" + data.split(b"\x1c", 1)[1] * 1200,
}


def lengths_right(data: bytes) -> bytes:
    """Each record says how long it is."""
    out = b""
    for record in data.split(b"\x1c", 1):
        if not record:
            continue
        head, rest = record.split(b"\x1d", 1)
        tag = head.split(b":")[0] + b":"
        body = b"\x1d" + rest + (b"" if record.endswith(b"\x1c") else b"\x1c")
        length = len(tag) + len(body)
        length += len(str(length + len(str(length))))
        out += tag + str(length).encode() + body
    return out


def with_record(data: bytes, kind: int, *fields: bytes) -> bytes:
    """`data` with a text record of type `kind` behind its Type-1 record, which does not count it."""
    head, rest = data.split(b"\x1c", 1)
    body = b"".join(b"\x1d%d.%b" % (kind, field) for field in (b"002:0", *fields)) + b"\x1c"
    start = b"%d.001:" % kind
    length = len(start) + len(body)
    length += len(str(length + len(str(length))))
    return head + b"\x1c" + start + str(length).encode() + body + rest
