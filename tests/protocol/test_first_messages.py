"""The first messages of a process may come to several threads at once.

msgspec builds what it knows about a type when it first decodes one. Up to 0.22 a second thread could read that half
built, and the process ended with a segmentation fault: so this runs in a process of its own. With 0.22 it fails.
"""

from __future__ import annotations

import subprocess
import sys

RACE = """
import sys, threading
import msgspec

sys.setswitchinterval(1e-6)
content = msgspec.msgpack.encode([[[1, {"a": b"x"}, b"y"]]] * 3)
for number in range(100):
    inner = [
        msgspec.defstruct(f"Inner{number}{field}", [("a", int), ("b", dict[str, bytes]), ("c", bytes)], array_like=True)
        for field in range(3)
    ]
    outer = msgspec.defstruct(f"Outer{number}", [(t.__name__, tuple[t, ...]) for t in inner], array_like=True)
    barrier, decoded = threading.Barrier(4), []

    def first() -> None:
        barrier.wait()
        decoded.append(msgspec.msgpack.decode(content, type=outer))

    threads = [threading.Thread(target=first) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 4 and all(one == decoded[0] for one in decoded)
print("decoded")
"""


def test_several_threads_decode_the_first_message_of_a_type() -> None:
    run = subprocess.run([sys.executable, "-c", RACE], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (0, "decoded\n"), run.stderr
