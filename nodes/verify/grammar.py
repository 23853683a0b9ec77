"""In which order each link speaks (protocol/DESIGN.md, sections 5 and 6), as far as it came before somebody stopped.

One function a link, written as the design's table reads. It takes messages from a `Reader`; where the messages end,
reading ends. This is no state machine of a party: it looks at types and numbers, not at contents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count

from nodes.verify.case import Item, Kind
from nodes.verify.table import Shape
from protocol.messages import Signature

_ADMISSION = ("AdmissionGates", "AdmissionCount", "AdmissionInput")


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

    def beside(
        self, kinds: tuple[str, ...], first: Callable[[Reader], None], second: Callable[[Reader], None], until: str
    ) -> None:
        """Two strands, each in its own order, up to and with the next `until`. `kinds`: those of the first one."""
        rest = self._items[self._next :]
        end = next((index for index, item in enumerate(rest) if item.record.kind == until), len(rest))
        for mine, read in ((True, first), (False, second)):
            said = [item for item in rest[:end] if (item.record.kind in kinds) == mine]
            strand = Reader([*said, *rest[end : end + 1]])
            with suppress(_Ended):  # cut off in both strands, where `until` is not there
                read(strand)
                strand.take(until)
        self._next += end
        self.take(until)

    def refuse(self, why: str) -> None:
        """The next message is wrong."""
        raise Unexpected(self._items[self._next], why)

    def end(self) -> None:
        """Nothing may follow."""
        self.sees("")
        self.refuse("nothing may follow here")


def follow(kind: Kind, items: Sequence[Item], sender: str, receiver: str, session: bool, shape: Shape | None) -> None:
    """Read a link of a conversation as a whole, or of a session of it. Roles as announced. Raises `Unexpected`.

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
            _WHOLE[kind][sender, receiver](reader)
        elif (sender, receiver) not in _SESSION[kind]:
            reader.end()
        elif shape is None:
            return
        else:
            _SESSION[kind][sender, receiver](reader, shape)
        reader.end()
    except _Ended:
        return


def _opening(*kinds: str) -> Callable[[Reader], None]:
    def read(reader: Reader) -> None:
        for kind in kinds:
            reader.take(kind)
        reader.sign("set-up")

    return read


_WHOLE: dict[Kind, dict[tuple[str, str], Callable[[Reader], None]]] = {
    "preparation": {
        ("requester", "router"): _opening("Prepare", "KeySeed", "MaskDigest"),
        ("requester", "holder"): _opening("Prepare", "KeySeed", "PublicPart"),
        ("router", "requester"): _opening("JoinedPreparation", "DerivedId"),
        ("router", "holder"): _opening("JoinedPreparation", "PublicPart"),
        ("holder", "requester"): _opening("JoinedPreparation", "DerivedId"),
        ("holder", "router"): _opening("JoinedPreparation"),
        ("holder", "holder"): _opening("JoinedPreparation"),
    },
    "search": {
        ("requester", "router"): _opening("Search"),
        ("requester", "holder"): _opening("Search"),
        ("router", "requester"): _opening("Joined", "DerivedId"),
        ("router", "holder"): _opening("Joined"),
        ("holder", "requester"): _opening("Joined", "DerivedId"),
        ("holder", "router"): _opening("Joined"),
        ("holder", "holder"): _opening("Joined"),
    },
}


def _ids(reader: Reader) -> None:
    """A ring begins: router and holder compare ids."""
    reader.take("DerivedId")
    reader.sign("id")


# A preparation, one holder's ring: what is sent to the previous party carries the gates.


def _prepares_requester_to_holder(reader: Reader, shape: Shape) -> None:
    reader.take("PairSecret")
    reader.take("MaskPart", len(shape.mask_parts))
    reader.some("Gates")
    reader.take("FormBit")
    if shape.chunks:
        reader.some("Gates")
    reader.sign("prepared")


def _prepares_requester_to_router(reader: Reader, shape: Shape) -> None:
    reader.take("Echo")
    reader.take("FormBit")
    reader.take("Echo")
    reader.sign("prepared")


def _prepares_router_to_requester(reader: Reader, shape: Shape) -> None:
    reader.take("PairSecret")
    reader.take("Echo")
    reader.some("Gates")
    reader.take("FormBit")
    if shape.chunks:
        reader.some("Gates")
    reader.take("Echo")
    reader.sign("prepared")


def _prepares_router_to_holder(reader: Reader, shape: Shape) -> None:
    _ids(reader)
    reader.take("FormBit")
    reader.sign("prepared")


def _prepares_holder_to_router(reader: Reader, shape: Shape) -> None:
    _ids(reader)
    reader.take("PairSecret")
    reader.take("MaskDigest")
    reader.take("FormBlock")
    reader.some("Gates")
    reader.take("FormBit")
    for _ in shape.chunks:
        reader.take("PreparedBlocks")
        reader.some("Gates")
    reader.sign("prepared")


def _prepares_holder_to_requester(reader: Reader, shape: Shape) -> None:
    reader.take("FormBlock")
    reader.take("FormBit")
    reader.take("PreparedBlocks", len(shape.chunks))
    reader.sign("prepared")


# A search, one holder's ring.


def _count(reader: Reader) -> None:
    """The count compared with the cap, as it passes around the ring."""
    reader.take("InputShare")
    reader.some("Gates")


def _beside(reader: Reader, shape: Shape, counts: bool) -> None:
    """The admission, and beside it the first chunk compared; with a single one the count too.

    `counts`: whether the holder's masked bits pass here, which go to the router.
    """

    def admission(strand: Reader) -> None:
        strand.some("AdmissionGates")
        if counts:
            strand.take("AdmissionCount")
        strand.take("AdmissionInput")
        strand.some("AdmissionGates")

    def comparison(strand: Reader) -> None:
        if shape.chunks:
            strand.some("Gates")
            if counts:
                strand.take("CountShare")
        if len(shape.chunks) < 2:
            _count(strand)

    reader.beside(_ADMISSION, admission, comparison, "AdmissionBit")
    reader.sign("admission")


def _later(shape: Shape, rung: int) -> tuple[int, ...]:
    """The chunks that are compared after the admission bit, on a rung."""
    return shape.chunks if rung else shape.chunks[1:]


def _gates(reader: Reader, shape: Shape, rung: int) -> None:
    """All chunks of a rung on a link on which nothing comes between them, and the count."""
    if _later(shape, rung):
        reader.some("Gates")
    if rung or len(shape.chunks) > 1:
        _count(reader)
    reader.take("CapBit")


def _sums(reader: Reader, rung: int) -> bool:
    """Whether there are so few hits that power sums follow the cap bit."""
    few = reader.sees("PowerSums")
    if few:
        reader.take("PowerSums")
    reader.sign(f"rung {rung}")
    return few


def _requester_to_holder(reader: Reader, shape: Shape) -> None:
    reader.take("Difference")
    _beside(reader, shape, counts=False)
    for rung in count():
        _gates(reader, shape, rung)
        if _sums(reader, rung):
            break
    reader.take("ConfirmationAnswer")
    reader.sign("confirmation")
    reader.sign("release")


def _requester_to_router(reader: Reader, shape: Shape) -> None:
    reader.take("DifferenceDigest")
    reader.take("Echo")
    reader.take("AdmissionBit")
    reader.sign("admission")
    reader.take("Echo", len(_later(shape, 0)))
    for rung in count():
        if rung and reader.sees("Echo"):
            break
        reader.take("CapBit")
        reader.sign(f"rung {rung}")
    reader.take("Echo")
    reader.sign("confirmation")


def _router_to_requester(reader: Reader, shape: Shape) -> None:
    reader.take("Echo")
    _beside(reader, shape, counts=False)
    for _ in _later(shape, 0)[:-1]:
        reader.take("Echo")
        reader.some("Gates")
    if _later(shape, 0):
        reader.take("Echo")
    for rung in count():
        if rung and reader.sees("Echo"):
            break
        _gates(reader, shape, rung)
        reader.sign(f"rung {rung}")
    reader.take("Echo")
    reader.sign("confirmation")


def _router_to_holder(reader: Reader, shape: Shape) -> None:
    _ids(reader)
    reader.take("AdmissionBit")
    reader.sign("admission")
    for rung in count():
        reader.take("CapBit")
        if _sums(reader, rung):
            break
    reader.take("ConfirmationAnswer")
    reader.sign("confirmation")


def _holder_to_router(reader: Reader, shape: Shape) -> None:
    _ids(reader)
    reader.take("DifferenceDigest")
    reader.take("AdmissionScores")
    for _ in shape.chunks[:1]:
        reader.take("MaskedScores")
        reader.take("LiveRows")
    _beside(reader, shape, counts=True)
    for rung in count():
        if rung and reader.sees("ConfirmationBlock"):
            break
        for _ in _later(shape, rung):
            if rung == 0:
                reader.take("MaskedScores")
                reader.take("LiveRows")
            reader.some("Gates")
            reader.take("CountShare")
        if rung or len(shape.chunks) > 1:
            _count(reader)
        reader.take("CapBit")
        reader.take("Rung")
        reader.sign(f"rung {rung}")
    reader.take("ConfirmationBlock")
    reader.sign("confirmation block")


def _holder_to_requester(reader: Reader, shape: Shape) -> None:
    reader.take("AdmissionScores")
    reader.take("MaskedScores", len(shape.chunks[:1]))
    reader.take("AdmissionBit")
    reader.sign("admission")
    reader.take("MaskedScores", len(_later(shape, 0)))
    for rung in count():
        if rung and reader.sees("ConfirmationBlock"):
            break
        reader.take("CapBit")
        reader.take("Rung")
        reader.sign(f"rung {rung}")
    reader.take("ConfirmationBlock")
    reader.sign("confirmation block")
    reader.take("Release")
    reader.sign("release")


_SESSION: dict[Kind, dict[tuple[str, str], Callable[[Reader, Shape], None]]] = {
    "preparation": {
        ("requester", "holder"): _prepares_requester_to_holder,
        ("requester", "router"): _prepares_requester_to_router,
        ("router", "requester"): _prepares_router_to_requester,
        ("router", "holder"): _prepares_router_to_holder,
        ("holder", "router"): _prepares_holder_to_router,
        ("holder", "requester"): _prepares_holder_to_requester,
    },
    "search": {
        ("requester", "holder"): _requester_to_holder,
        ("requester", "router"): _requester_to_router,
        ("router", "requester"): _router_to_requester,
        ("router", "holder"): _router_to_holder,
        ("holder", "router"): _holder_to_router,
        ("holder", "requester"): _holder_to_requester,
    },
}
