"""Honest and lying evidence as files, with the verdict each must get. Another verifier can be judged by them.

Run `python -m tests.conformance.generate` when the form of evidence changes. It makes a preparation, runs a query with
it, and tells both again, for each rule with one lie of `tests/verify/test_lies.py`. All keys are new each time, so
every byte is.

::

    bundles.tar.xz      trust/NAME.json, the parties' public identities; CASE/NAME.bundle
    verdicts.json       for each case: whether the evidence holds; if not, the rule that must fail, and what it must say
"""

from __future__ import annotations

import io
import json
import lzma
import tarfile
import tempfile
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path

from nodes.evidence.export import sign_bundle
from nodes.verify.format import decode_bundle
from pets.signatures import SigningKey
from tests.kit.evidence import ES, EU, FR, World, failures
from tests.kit.stories import Files, Story, verified
from tests.kit.trio import copied
from tests.verify.test_lies import LIES

FOLDER = Path(__file__).parent
ARCHIVE, VERDICTS = FOLDER / "bundles.tar.xz", FOLDER / "verdicts.json"
TRUST = "trust"


@dataclass(frozen=True)
class Case:
    """`rule`: the verifier's name of the rule that must fail, None where all must hold; `what`: what it must say."""

    name: str
    what: str
    holds: bool
    rule: str | None = None


def honest(world: World, files: Files, unused: Files) -> dict[Case, Files]:
    """What must hold: all bundles of a query, and fewer, which leave more unchecked and break nothing."""
    return {
        Case("unused-preparation", "all bundles of a preparation that no query used", True): unused,
        Case("all-bundles", "all bundles of a query of one holder", True): files,
        Case("requester-alone", "the requester's bundle and no other", True): {FR: files[FR]},
        Case("holder-and-router", "no bundle of the requester", True): {ES: files[ES], EU: files[EU]},
        Case("told-again", "the same story, with logs written anew", True): Story.read(world, files).tell(),
    }


def lying(world: World, files: Files) -> dict[Case, Files]:
    """What must not hold: for each rule one lie that breaks it, told alike by all whom it takes."""
    told = {}
    chosen = {rule: (lie, words) for lie, rule, words in reversed(LIES)}
    for rule, (lie, words) in chosen.items():
        story = Story.read(world, files)
        lie(story)
        case = Case(lie.__name__.replace("_", "-"), words, False, rule)
        told[case] = fewest_that_show(world, case, story.tell())
    bundle = decode_bundle(files[ES])[1]
    told[Case("signed-by-another", "its signature does not hold", False, "bundle-signature")] = {
        ES: sign_bundle(bundle, SigningKey.generate())
    }
    return told


def used_twice(files: Files, twice: Files) -> dict[Case, Files]:
    """Two queries with one preparation, as the router's bundles show it."""
    case = Case("preparation-used-twice", "EU used it in 2 searches", False, "preparation-once")
    return {case: {EU: files[EU], f"{EU}-2": twice[EU]}}


def fewest_that_show(world: World, case: Case, files: Files) -> Files:
    """The smallest choice of bundles in which the rule finds the lie: the archive is to be small."""
    for count in range(1, len(files) + 1):
        for owners in combinations(files, count):
            chosen = {owner: files[owner] for owner in owners}
            if case.what in failures(verified(world, chosen)).get(str(case.rule), ""):
                return chosen
    raise AssertionError(f"{case.name} is not found at all")


def write(folder: Path = FOLDER) -> None:
    """Write both files into `folder`."""
    with tempfile.TemporaryDirectory() as temporary:
        world = World.make(Path(temporary))
        unused = world.bundles(world.prepare((ES,)).conversation, (FR, EU, ES))
        made = world.prepare((ES,))
        again = replace(made, preparation=copied(made.preparation))  # type: ignore[arg-type]
        files = world.bundles(world.query((ES,), made=made), (FR, EU, ES))
        twice = world.bundles(world.query((ES,), made=again), (EU,))
        cases = honest(world, files, unused) | lying(world, files) | used_twice(files, twice)
        contents = {
            f"{TRUST}/{path.name}": path.read_bytes() for path in (world.root / "authority" / "peers").iterdir()
        }
    for owner in (FR, EU, f"{EU}-2", ES):  # side by side: what two cases share is then stored once
        contents |= {f"{case.name}/{owner}.bundle": told[owner] for case, told in cases.items() if owner in told}
    (folder / ARCHIVE.name).write_bytes(packed(contents))
    verdicts = json.dumps([asdict(case) for case in cases], indent=1, ensure_ascii=False)
    (folder / VERDICTS.name).write_text(verdicts + "\n")


def unpack(folder: Path) -> None:
    """Lay the stored cases into a folder."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Debian 12's Python knows none
        archive.extractall(folder)


def packed(contents: dict[str, bytes]) -> bytes:
    """A .tar.xz whose window spans all of it."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name, data in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 27}]
    return lzma.compress(plain.getvalue(), filters=filters)


if __name__ == "__main__":
    write()
