"""In which order each link speaks (protocol/DESIGN.md, 5, 6 and 6a), as far as it came before somebody stopped.

One function a link, written as the design's table reads. It takes messages from a `Reader`; where the messages end,
reading ends. This is no state machine of a party: it looks at types and numbers, not at contents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

from nodes.verify.case import Item
from nodes.verify.table import Shape
from protocol.messages import Signature


class Unexpected(Exception):
    """A message that had no business there."""

    def __init__(self, item: Item, why: str) -> None:
        super().__init__(why)
        self.item = item


class _Ended(Exception):
    """No more messages."""


class Reader:
    """The messages of one link, one after the other."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._next = 0

    def sees(self, kind: str) -> bool:
        """Whether the next message is a `kind`. Ends the reading if there is none."""
        if self._next >= len(self._items):
            raise _Ended
        return self._items[self._next].record.kind == kind

    def take(self, kind: str, number: int = 1) -> None:
        """The next `number` messages must be of this kind."""
        for _ in range(number):
            if not self.sees(kind):
                self.refuse(f"expected {kind}")
            self._next += 1

    def some(self, kind: str) -> None:
        """One message of this kind or more."""
        self.take(kind)
        while self.sees(kind):
            self._next += 1

    def sign(self, phase: str) -> None:
        """A signature that ends a phase."""
        signed = self.sees("Signature")
        message = self._items[self._next].record.message
        if not signed or not isinstance(message, Signature) or message.phase != phase:
            self.refuse(f"expected the signature of phase {phase!r}")
        self._next += 1

    def refuse(self, why: str) -> None:
        """The next message is wrong."""
        raise Unexpected(self._items[self._next], why)

    def end(self) -> None:
        """Nothing may follow."""
        self.sees("")
        self.refuse("nothing may follow here")


def follow(items: Sequence[Item], sender: str, receiver: str, session: bool, shape: Shape | None) -> None:
    """Read a link of the query as a whole, or of a session. Roles as announced. Raises `Unexpected`.

    An `Abort` may stand anywhere, and nothing after it.
    """
    aborts = [index for index, item in enumerate(items) if item.record.kind == "Abort"]
    if aborts:
        if aborts[0] != len(items) - 1:
            raise Unexpected(items[aborts[0] + 1], "nothing may follow an Abort")
        items = items[:-1]
    reader = Reader(items)
    try:
        if not session:
            _SET_UP[sender, receiver](reader)
        elif (sender, receiver) not in _SESSION:
            reader.end()
        elif shape is None:
            return
        else:
            _SESSION[sender, receiver](reader, shape)
        reader.end()
    except _Ended:
        return


def _opening(*kinds: str) -> Callable[[Reader], None]:
    def read(reader: Reader) -> None:
        for kind in kinds:
            reader.take(kind)
        reader.sign("set-up")

    return read


_SET_UP = {
    ("requester", "router"): _opening("Announce", "PublicShare"),
    ("requester", "holder"): _opening("Announce", "KeyPair"),
    ("router", "requester"): _opening("Joined", "KeyCommitment", "PublicShare"),
    ("router", "holder"): _opening("Joined", "KeyPair"),
    ("holder", "requester"): _opening("Joined"),
    ("holder", "router"): _opening("Joined"),
    ("holder", "holder"): _opening("Joined"),
}


def _gates(reader: Reader, rounds: int) -> None:
    """Shared inputs and the AND gates of a circuit, `rounds` times."""
    for _ in range(rounds):
        reader.take("InputShare")
        reader.some("Gates")


def _rung(reader: Reader, shape: Shape) -> None:
    """Comparison of every chunk, then of the count with the cap, as they pass around the ring."""
    _gates(reader, len(shape.chunks) + 1)
    reader.take("CapBit")


def _requester_to_holder(reader: Reader, shape: Shape) -> None:
    reader.take("PairSecret")
    reader.take("ProbePart", len(shape.probe_parts))
    _gates(reader, 1)
    reader.take("AdmissionBit")
    reader.sign("admission")
    for rung in count():
        _rung(reader, shape)
        few = reader.sees("PowerSums")
        if few:
            reader.take("PowerSums")
        reader.sign(f"rung {rung}")
        if few:
            break
    reader.take("ConfirmationAnswer")
    reader.sign("confirmation")
    reader.sign("release")


def _requester_to_router(reader: Reader, shape: Shape) -> None:
    reader.take("ProbeDigest")
    reader.take("AdmissionBit")
    reader.sign("admission")
    for rung in count():
        if rung and reader.sees("ConfirmationDigest"):
            break
        reader.take("CapBit")
        reader.sign(f"rung {rung}")
    reader.take("ConfirmationDigest")
    reader.sign("confirmation")


def _router_to_requester(reader: Reader, shape: Shape) -> None:
    reader.take("PairSecret")
    _gates(reader, 1)
    reader.take("AdmissionBit")
    reader.sign("admission")
    for rung in count():
        if rung and reader.sees("ConfirmationDigest"):
            break
        _rung(reader, shape)
        reader.sign(f"rung {rung}")
    reader.take("ConfirmationDigest")
    reader.sign("confirmation")


def _router_to_holder(reader: Reader, shape: Shape) -> None:
    reader.take("AdmissionBit")
    reader.sign("admission")
    for rung in count():
        reader.take("CapBit")
        few = reader.sees("PowerSums")
        if few:
            reader.take("PowerSums")
        reader.sign(f"rung {rung}")
        if few:
            break
    reader.take("ConfirmationAnswer")
    reader.sign("confirmation")


def _holder_to_router(reader: Reader, shape: Shape) -> None:
    reader.take("PairSecret")
    reader.take("AdmissionBlock")
    _gates(reader, 1)
    reader.take("AdmissionBit")
    reader.sign("admission")
    for rung in count():
        if rung and reader.sees("ConfirmationBlock"):
            break
        for _ in shape.chunks:
            if rung == 0:
                reader.take("FilterBlock")
            _gates(reader, 1)
            reader.take("CountShare")
        _gates(reader, 1)
        reader.take("CapBit")
        reader.take("Rung")
        reader.sign(f"rung {rung}")
    reader.take("ConfirmationBlock")
    reader.sign("confirmation block")


def _holder_to_requester(reader: Reader, shape: Shape) -> None:
    reader.take("AdmissionBlock")
    reader.take("AdmissionBit")
    reader.sign("admission")
    for rung in count():
        if rung and reader.sees("ConfirmationBlock"):
            break
        if rung == 0:
            reader.take("FilterBlock", len(shape.chunks))
        reader.take("CapBit")
        reader.take("Rung")
        reader.sign(f"rung {rung}")
    reader.take("ConfirmationBlock")
    reader.sign("confirmation block")
    reader.take("Release")
    reader.sign("release")


_SESSION = {
    ("requester", "holder"): _requester_to_holder,
    ("requester", "router"): _requester_to_router,
    ("router", "requester"): _router_to_requester,
    ("router", "holder"): _router_to_holder,
    ("holder", "router"): _holder_to_router,
    ("holder", "requester"): _holder_to_requester,
}
